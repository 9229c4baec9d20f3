//! The worker as a member: what it says of itself, and what it makes of its assignment.

use std::{sync::Arc, time::Duration};

use balancer_userspace::membership::{
    client::Told,
    protocol::{Assignment, Heartbeat, Hello, KeepWarm, Kept, SlotRange},
};
use db::{SlotMap, SlotOwner};
use ebpf_common::ids::FunctionId;
use futures_util::future::select_all;
use nix::ifaddrs::getifaddrs;
use store::CatalogEntry;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use crate::{
    agreement::{Agreement, Disagreement},
    ahead::{self, CodeAhead},
    catalog::Functions,
    config::Config,
    error::RunError,
    identity::Identity,
    load::Load,
    metrics::ReportMetrics,
    pool::Pool,
    report::Reporter,
};

/// Heartbeats are at least this far apart, however fast the load changes.
const HEARTBEAT_GAP: Duration = Duration::from_millis(1);

/// When a function to be kept warm is looked for again that the catalog has not got.
const LEARN_AGAIN: Duration = Duration::from_millis(250);
/// When all of them are looked up again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often it is counted what lives of them while some are missing: somebody may wait for these.
const COUNT_MISSING: Duration = Duration::from_millis(20);
/// How often otherwise.
const COUNT_AGAIN: Duration = Duration::from_millis(500);

/// Who this worker is, from its configuration and its host.
///
/// # Errors
/// [`RunError`] when the token or the interface's MAC address cannot be read.
pub(crate) fn hello(config: &Config) -> Result<Hello, RunError> {
    let path = config.token_file.clone().unwrap_or_default();
    let token =
        std::fs::read_to_string(&path).map_err(|source| RunError::Token { path, source })?;
    let slots = config.db.slots.ranges().iter();
    Ok(Hello {
        token: token.trim().to_owned(),
        name: config.name.clone(),
        id: config.id,
        address: config.address,
        address6: config.address6,
        mac: mac_of(&config.interface)?,
        slots: slots
            .map(|range| SlotRange {
                first: range.first,
                last: range.last,
            })
            .collect(),
        db_url: config.db.listen.map(|address| format!("http://{address}")),
    })
}

/// The MAC address of an interface, asked of the kernel by netlink: `/sys` may belong to another network
/// namespace than this process.
fn mac_of(interface: &str) -> Result<String, RunError> {
    let addresses = getifaddrs().map_err(|source| RunError::Interfaces { source })?;
    let mut known = Vec::new();
    for entry in addresses {
        let Some(mac) = entry
            .address
            .as_ref()
            .and_then(|any| any.as_link_addr()?.addr())
        else {
            continue;
        };
        if entry.interface_name == interface {
            return Ok(mac.map(|byte| format!("{byte:02x}")).join(":"));
        }
        known.push(entry.interface_name);
    }
    Err(RunError::NoInterface {
        name: interface.to_owned(),
        known: known.join(", "),
    })
}

/// What the worker says of itself now.
pub(crate) fn heartbeat(load: &Load, warm: &[FunctionId], kept: &[Kept]) -> Heartbeat {
    Heartbeat {
        in_flight: load.in_flight(),
        capacity: load.capacity(),
        warm: warm.to_vec(),
        draining: load.is_draining(),
        kept: kept.to_vec(),
    }
}

/// Publishes a heartbeat on each change of load, warm set or what is kept, until nobody listens.
pub(crate) async fn publish(
    load: Arc<Load>,
    mut warm: watch::Receiver<Vec<FunctionId>>,
    mut kept: watch::Receiver<Vec<Kept>>,
    heartbeats: Arc<watch::Sender<Heartbeat>>,
) {
    let mut pool_lives = true;
    let mut is_member = true;
    loop {
        tokio::select! {
            () = heartbeats.closed() => return,
            () = load.changed() => (),
            changed = warm.changed(), if pool_lives => pool_lives = changed.is_ok(),
            changed = kept.changed(), if is_member => is_member = changed.is_ok(),
        }
        let now = heartbeat(&load, &warm.borrow_and_update(), &kept.borrow_and_update());
        heartbeats.send_if_modified(|last| {
            let is_new = *last != now;
            if is_new {
                *last = now;
            }
            is_new
        });
        sleep(HEARTBEAT_GAP).await;
    }
}

/// What an assignment changes.
pub(crate) struct Assigned {
    pub(crate) identity: Arc<Identity>,
    pub(crate) router: Arc<db::Router>,
    pub(crate) reporter: Reporter,
    pub(crate) warmth: watch::Sender<Vec<KeepWarm>>,
    pub(crate) metrics: ReportMetrics,
    pub(crate) disagreement: Option<Disagreement>,
}

impl Assigned {
    fn take_over(&mut self, told: &[Told]) {
        let Some(agreement) = Agreement::of(told) else {
            return;
        };
        self.identity.assign(agreement.seal());
        let assignments = told.iter().map(|told| &told.assignment);
        self.reporter.assign(assignments);
        self.router.set_slots(slots_of(agreement.slots()));
        let keep_warm = agreement.keep_warm();
        self.warmth.send_if_modified(|before| {
            let is_new = *before != keep_warm;
            if is_new {
                *before = keep_warm;
            }
            is_new
        });
        self.tell_of(agreement.disagreement());
    }

    fn tell_of(&mut self, disagreement: Option<Disagreement>) {
        if self.disagreement == disagreement {
            return;
        }
        self.metrics.set_disagree(disagreement.is_some());
        match &disagreement {
            Some(why) => warn!(%why, "route cookies do not hold at all control planes' balancers"),
            None => info!("route cookies hold at all control planes' balancers again"),
        }
        self.disagreement = disagreement;
    }
}

/// Takes over whatever each control plane tells, until the membership ends.
pub(crate) async fn follow(
    mut control_planes: Vec<watch::Receiver<Option<Told>>>,
    mut assigned: Assigned,
) {
    loop {
        let told: Vec<Told> = control_planes
            .iter_mut()
            .filter_map(|it| it.borrow_and_update().clone())
            .collect();
        assigned.take_over(&told);
        let changes = control_planes.iter_mut().map(|it| Box::pin(it.changed()));
        if select_all(changes).await.0.is_err() {
            return;
        }
    }
}

/// Has the pool keep what the control plane says, and tells it what is here of what it asks about, until the membership
/// ends. A function that the worker's catalog has not got yet is looked for again.
pub(crate) async fn keep_warm(
    mut wanted: watch::Receiver<Vec<KeepWarm>>,
    functions: Arc<Functions>,
    pool: Arc<Pool>,
    kept: watch::Sender<Vec<Kept>>,
) {
    let fetching = Arc::clone(&pool);
    let fetch = move |entry: Arc<CatalogEntry>| {
        let pool = Arc::clone(&fetching);
        async move { pool.fetch(&entry).await }
    };
    let mut ahead = CodeAhead::new(fetch, ahead::AGAIN);
    loop {
        let all = wanted.borrow_and_update().clone();
        let mut known = Vec::with_capacity(all.len());
        for keep in &all {
            if let Some(entry) = functions.get_or_learn(keep.function).await {
                known.push((*keep, entry));
            }
        }
        let code = known.iter().filter(|(keep, _)| keep.code);
        ahead.want(code.map(|(_, entry)| entry));
        let with_instances = known.iter().filter(|(keep, _)| keep.instances > 0);
        let counts: Vec<_> = with_instances
            .map(|(keep, entry)| (Arc::clone(entry), keep.instances as usize))
            .collect();
        pool.keep_warm(&counts);
        // Also when nothing changes here: an alias may have moved to another version.
        let again = if known.len() < all.len() {
            LEARN_AGAIN
        } else {
            LOOK_AGAIN
        };
        let until = Instant::now() + again;
        while Instant::now() < until {
            let is_short = count(&known, &pool, |entry| ahead.has(entry), &kept);
            let pause = if is_short { COUNT_MISSING } else { COUNT_AGAIN };
            let look = (Instant::now() + pause).min(until);
            match timeout_at(look, wanted.changed()).await {
                Ok(Err(_gone)) => return,
                Ok(Ok(())) => break,
                Err(_elapsed) => (),
            }
        }
    }
}

/// Tells what lives of those that the control plane asks about, and whose code is here. Returns whether one of them is short.
fn count(
    known: &[(KeepWarm, Arc<CatalogEntry>)],
    pool: &Pool,
    has_code: impl Fn(&CatalogEntry) -> bool,
    kept: &watch::Sender<Vec<Kept>>,
) -> bool {
    let asked = known.iter().filter(|(keep, _)| keep.tell);
    let mut is_short = false;
    let now: Vec<Kept> = asked
        .map(|(keep, entry)| {
            let live = u32::try_from(pool.live(entry)).unwrap_or(u32::MAX);
            let code = keep.code && has_code(entry);
            is_short |= live < keep.instances || code != keep.code;
            Kept {
                function: keep.function,
                live,
                code,
            }
        })
        .collect();
    kept.send_if_modified(|before| {
        let is_new = *before != now;
        *before = now;
        is_new
    });
    is_short
}

/// The slots whose owners can be reached.
fn slots_of(assignment: &Assignment) -> SlotMap {
    let owners = assignment.slots.iter().filter_map(|owner| {
        Some(SlotOwner {
            range: db::SlotRange {
                first: owner.range.first,
                last: owner.range.last,
            },
            shard: owner.worker.clone(),
            url: owner.db_url.clone()?,
        })
    });
    SlotMap {
        version: assignment.slots_version,
        owners: owners.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_named_with_those_that_are() {
        let error = mac_of("nope0").unwrap_err().to_string();
        assert!(error.contains("nope0"), "{error}");
        assert!(mac_of("lo").unwrap().starts_with("00:00"));
    }

    #[tokio::test]
    async fn changes_of_load_are_published_once_a_millisecond_at_most() {
        let load = Arc::new(Load::new(100));
        let (_warm, warm) = watch::channel(Vec::new());
        let (kept_sender, kept) = watch::channel(Vec::new());
        let (sender, mut heartbeats) = watch::channel(heartbeat(&load, &[], &[]));
        tokio::spawn(publish(Arc::clone(&load), warm, kept, Arc::new(sender)));
        let begun = tokio::time::Instant::now();
        let mut permits = Vec::new();
        for wanted in 1..=5 {
            permits.push(load.admit().unwrap());
            heartbeats.changed().await.unwrap();
            assert_eq!(heartbeats.borrow_and_update().in_flight, wanted);
        }
        assert!(begun.elapsed() >= 4 * HEARTBEAT_GAP);
        drop(permits);
        heartbeats.changed().await.unwrap();
        assert_eq!(heartbeats.borrow_and_update().in_flight, 0);
        let told = vec![Kept {
            function: FunctionId::of("hello"),
            live: 2,
            code: false,
        }];
        kept_sender.send_replace(told.clone());
        heartbeats.changed().await.unwrap();
        assert_eq!(heartbeats.borrow_and_update().kept, told);
    }
}
