//! Sandboxes made and removed a second, in a steady state, and what an idle instance costs in memory.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testbed::proc;
use tests::pool::{PoolBed, run_name};

use crate::{
    Scope,
    pools::{Imports, end_after, event, keep_warm, timed, until_at_rest},
    row::Row,
    say,
};

/// Seconds that are counted, each by itself.
const SECONDS: usize = 10;
/// Requests at once: enough to keep both processors of a small machine busy.
const AT_ONCE: usize = 8;
/// Serves one request, by ending.
const ONE_SHOT: &str = "import os\ndef f(event):\n    os._exit(0)\n";
/// Instances whose memory is compared.
const FEW: usize = 10;
const MANY: usize = 50;
const MEMORY_ROUNDS: usize = 5;

/// Measures what was asked for.
pub(crate) async fn rows(scope: &Scope) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if scope.has("turnover/instances") {
        rows.extend(turnover(scope).await?);
    }
    if scope.has("memory/instance") || scope.has("memory/first") {
        rows.extend(memory(scope).await?);
    }
    Ok(rows)
}

/// Whole lives of instances: sandbox made, forked into, loaded, asked, ended, removed.
async fn turnover(scope: &Scope) -> Result<Option<Row>> {
    let seconds = scope.rounds(SECONDS);
    say(&format!("turnover: {seconds} seconds"));
    let bed = Arc::new(
        PoolBed::start(|config| {
            scope.fit(config);
            config.limits.prepared = worker::pool::PoolLimits::default().prepared;
            config.limits.memory_mb = 16_384;
            // For those that are started and find nobody waiting any more, at the end.
            end_after(config, 100);
        })
        .await?,
    );
    let function = bed.deploy("once", ONE_SHOT, "memory_mb = 64").await?;
    let ended = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (bed, function) = (Arc::clone(&bed), Arc::clone(&function));
            let ended = Arc::clone(&ended);
            tokio::spawn(async move {
                loop {
                    bed.call(&function, &Value::Null).await;
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut rates = Vec::new();
    // The first second brings it to its steady state.
    for second in 0..=seconds {
        let (start, before) = (Instant::now(), ended.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let count = ended.load(Ordering::Relaxed) - before;
        if second > 0 {
            rates.push(count as f64 / start.elapsed().as_secs_f64());
        }
    }
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        drop(task.await);
    }
    let destroyed = bed.pool.snapshot().destroyed;
    ensure!(
        destroyed >= ended.load(Ordering::Relaxed),
        "only {destroyed} instances ended"
    );
    until_at_rest(&bed).await?;
    let bed = Arc::into_inner(bed).context("a request still runs")?;
    bed.stop().await;
    Ok(Row::of("turnover/instances", "1/s", rates))
}

/// Memory of each further idle instance: of all processes of the pool, with many and with few of them.
async fn memory(scope: &Scope) -> Result<Vec<Row>> {
    let rounds = scope.rounds(MEMORY_ROUNDS);
    say(&format!(
        "memory: {FEW} and {MANY} instances, {rounds} rounds"
    ));
    let (mut further, mut first) = (Vec::new(), Vec::new());
    for _round in 0..rounds {
        let bed = PoolBed::start(|config| {
            scope.fit(config);
            config.limits.memory_mb = 16_384;
            keep_warm(config);
        })
        .await?;
        let mut functions = Vec::new();
        for number in 0..MANY {
            let name = format!("hello{number}");
            let code = Imports::None.code();
            functions.push(bed.deploy(&name, &code, "memory_mb = 64").await?);
        }
        let mut sizes = Vec::new();
        for (number, function) in functions.iter().enumerate() {
            timed(&bed, function, &event()).await?;
            if [1, FEW, MANY].contains(&(number + 1)) {
                sizes.push(pss_mb(&bed).await?);
            }
        }
        bed.stop().await;
        let [one, few, many] = sizes[..] else {
            anyhow::bail!("not all sizes were taken");
        };
        first.push(one);
        further.push((many - few) / (MANY - FEW) as f64);
    }
    let rows = [
        Row::of("memory/first", "MB", first),
        Row::of("memory/instance", "MB", further),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// What all processes of the pool take together, each shared page counted in parts: zygote, inits, instances.
async fn pss_mb(bed: &PoolBed) -> Result<f64> {
    // As many are prepared each time, so that they do not count.
    while bed.pool.snapshot().prepared < bed.config.limits.prepared {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let group = Path::new(&run_name()).join(&bed.config.worker);
    let mut pids: BTreeSet<u32> = proc::groups(&group)
        .iter()
        .flat_map(|group| proc::members(group))
        .collect();
    ensure!(!pids.is_empty(), "no process of the pool was found");
    let library = bed.dir.path().join("state");
    pids.extend(proc::python_children(
        std::process::id(),
        &library.to_string_lossy(),
    ));
    let kb: u64 = pids.iter().filter_map(|pid| proc::pss_kb(*pid)).sum();
    Ok(kb as f64 / 1_024.0)
}
