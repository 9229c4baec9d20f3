//! (c) Each shard key is served by the worker that owns its slot.

use ::tests::load::{KeyResult, Plan};
use anyhow::{Context as _, Result};
use ebpf_common::hash::slot_of_key;

use super::{Stage, grouped};
use crate::figures::{Shards, ratio};

const KEYS: u64 = 10_000;
const IN_FLIGHT: usize = 24;

/// Slot ranges and the names of their owners, as the control plane has them.
struct Owners(Vec<(std::ops::RangeInclusive<u16>, String)>);

impl Owners {
    fn read(stage: &Stage<'_>) -> Result<Self> {
        let slots = stage.cluster.slots()?;
        let owners: Result<Vec<_>> = slots
            .owners
            .into_iter()
            .map(|owner| {
                let (first, last) = owner
                    .range
                    .split_once('-')
                    .unwrap_or((&owner.range, &owner.range));
                let bound = |text: &str| {
                    text.parse::<u16>()
                        .with_context(|| format!("the control plane's slot range {}", owner.range))
                };
                Ok((bound(first)?..=bound(last)?, owner.worker.clone()))
            })
            .collect();
        Ok(Self(owners?))
    }

    fn owner(&self, key: &str) -> Option<&str> {
        let slot = slot_of_key(key.as_bytes()).0;
        let found = self.0.iter().find(|(range, _worker)| range.contains(&slot));
        found.map(|(_range, worker)| worker.as_str())
    }
}

pub(crate) fn show(stage: &mut Stage<'_>) -> Result<()> {
    let plan = Plan::Keys {
        function: "kv-counter".to_owned(),
        target: stage.vip(),
        keys: stage.scale.requests(KEYS),
        in_flight: IN_FLIGHT,
    };
    let summary = stage.booked("(c)", |stage| {
        let summary = stage.load("(c) shard keys", &plan)?;
        let sent = summary.series[0].packets;
        Ok((summary, sent))
    })?;
    let owners = Owners::read(stage)?;
    let keys = &summary.keys;
    let local: u64 = keys.iter().map(|key| local_requests(key, &owners)).sum();
    let read_back = keys.iter().filter(|key| key.read_back).count() as u64;
    stage.figures.shards = Shards {
        keys: keys.len() as u64,
        local_ratio: ratio(local, plan.requests()),
        read_back_ratio: ratio(read_back, keys.len() as u64),
    };
    let series = &summary.series[0];
    stage.say(&format!(
        "\n(c) Shards: {} keys, each written by one request and read by another\n\
         \x20   {} of {} requests ran on the worker that owns the key's slot ({:.2} %)\n\
         \x20   {} of {} keys read back as written\n\
         \x20   {:.0} requests/s, p50 {} µs; answered by {}{}",
        grouped(keys.len() as u64),
        grouped(local),
        grouped(plan.requests()),
        stage.figures.shards.local_ratio * 100.0,
        grouped(read_back),
        grouped(keys.len() as u64),
        series.per_second(),
        series.latency.quantile_us(0.5),
        stage.shares(&series.workers),
        failures(&summary),
    ));
    Ok(())
}

fn local_requests(key: &KeyResult, owners: &Owners) -> u64 {
    let owner = owners.owner(&key.key);
    [&key.written_by, &key.read_by]
        .into_iter()
        .filter(|worker| worker.is_some() && worker.as_deref() == owner)
        .count() as u64
}

/// `; failed: timeout 3`, or nothing.
pub(super) fn failures(summary: &::tests::load::Summary) -> String {
    let failures = summary.failures();
    if failures.is_empty() {
        return String::new();
    }
    let list: Vec<String> = failures
        .iter()
        .map(|(words, count)| format!("{count} by \"{words}\""))
        .collect();
    format!("; failed: {}", list.join(", "))
}
