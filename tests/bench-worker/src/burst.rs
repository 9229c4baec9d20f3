//! The burst of the OpenLambda paper: a hundred requests at once, each of a handler that takes 200 ms, on a worker with
//! no instance of it.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use store::CatalogEntry;
use tests::pool::{PoolBed, reply};

use crate::{
    Scope,
    pools::{end_after, until_at_rest},
    row::Row,
    say,
};

const ROUNDS: usize = 15;
const REQUESTS: usize = 100;
/// Tells when it began, by the clock that all processes of a host share.
const HANDLER: &str = "\
import time
def f(event):
    began = time.monotonic_ns()
    time.sleep(0.2)
    return began
";

/// What one burst came to: milliseconds from its beginning, and instances.
struct Burst {
    began: f64,
    half_began: f64,
    replied: f64,
    instances: f64,
}

/// Measures bursts, if they were asked for.
pub(crate) async fn rows(scope: &Scope) -> Result<Vec<Row>> {
    if ![
        "burst/began",
        "burst/half_began",
        "burst/replied",
        "burst/instances",
    ]
    .iter()
    .any(|case| scope.has(case))
    {
        return Ok(Vec::new());
    }
    let bed = PoolBed::start(|config| {
        let defaults = worker::pool::PoolLimits::default();
        scope.fit(config);
        config.limits.prepared = defaults.prepared;
        config.limits.memory_mb = 16_384;
        config.limits.instances_per_function = 2 * REQUESTS;
        end_after(config, 500);
    })
    .await?;
    let bed = Arc::new(bed);
    let function = bed.deploy("burst", HANDLER, "memory_mb = 64").await?;
    let rounds = scope.rounds(ROUNDS);
    say(&format!("burst: {REQUESTS} requests, {rounds} rounds"));
    let mut bursts = Vec::new();
    for _round in 0..rounds {
        until_at_rest(&bed).await?;
        bursts.push(burst(&bed, &function).await?);
    }
    let bed = Arc::into_inner(bed).context("a request of a burst still runs")?;
    bed.stop().await;
    let row = |case: &str, unit: &str, value: fn(&Burst) -> f64| {
        Row::of(case, unit, bursts.iter().map(value).collect())
    };
    let rows = [
        row("burst/half_began", "ms", |burst| burst.half_began),
        row("burst/began", "ms", |burst| burst.began),
        row("burst/replied", "ms", |burst| burst.replied),
        row("burst/instances", "n", |burst| burst.instances),
    ];
    Ok(rows.into_iter().flatten().collect())
}

async fn burst(bed: &Arc<PoolBed>, function: &Arc<CatalogEntry>) -> Result<Burst> {
    let begin = monotonic_ns()?;
    let requests: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let invocation = bed.invocation(function, &Value::Null);
            let bed = Arc::clone(bed);
            tokio::spawn(async move { bed.pool.invoke(invocation).await })
        })
        .collect();
    let (mut began, mut instances) = (Vec::new(), BTreeSet::new());
    for request in requests {
        let outcome = request.await?;
        let at = reply(&outcome)?.as_u64().context("no time")?;
        began.push(at.saturating_sub(begin) as f64 / 1e6);
        instances.insert(outcome.usage.instance);
    }
    let replied = (monotonic_ns()? - begin) as f64 / 1e6;
    began.sort_by(f64::total_cmp);
    ensure!(began.len() == REQUESTS, "requests were lost");
    Ok(Burst {
        began: began[REQUESTS - 1],
        half_began: began[REQUESTS / 2 - 1],
        replied,
        instances: instances.len() as f64,
    })
}

/// Now, by the clock that all processes of a host share.
pub(crate) fn monotonic_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the clock")?;
    Ok(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}
