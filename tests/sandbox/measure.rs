//! Not a test: how long a cold start and a warm request take, and what an idle instance costs.
//!
//! `cargo test --release -p tests --features privileged --test sandbox -- --ignored --nocapture measure`

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use super::bed::{Bed, json as reply};

const COLD_STARTS: usize = 40;
const WARM_REQUESTS: usize = 20_000;
const INSTANCES: usize = 20;
const THAWS: usize = 300;
const HELLO: &str = "\
def f(event):
    name = (event or {}).get('name', 'world')
    return {'greeting': f'Hello, {name}!'}
";

fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let at = (sorted.len() as f64 * q) as usize;
    sorted[at.min(sorted.len() - 1)]
}

pub(crate) fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!(
        "{what}: p50 {:?}  p90 {:?}  p99 {:?}  min {:?}  (n = {})",
        quantile(&times, 0.5),
        quantile(&times, 0.9),
        quantile(&times, 0.99),
        times[0],
        times.len()
    );
}

pub(crate) async fn until_prepared(bed: &Bed) {
    while bed.pool.snapshot().prepared < bed.config.limits.prepared {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a quiet machine and a release build"]
async fn measure_cold_and_warm() {
    let bed = Bed::start_with(|config| {
        config.limits.prepared = 2;
        config.limits.memory_mb = 16_384;
    })
    .await;
    let mut cold = Vec::new();
    let mut functions = Vec::new();
    for number in 0..COLD_STARTS {
        functions.push(
            bed.deploy(&format!("hello{number}"), HELLO, "memory_mb = 64")
                .await,
        );
    }
    for function in &functions {
        until_prepared(&bed).await;
        let start = Instant::now();
        let outcome = bed.call(function, json!({"name": "Ada"})).await;
        cold.push(start.elapsed());
        assert!(outcome.usage.cold);
        reply(&outcome);
    }
    show(
        "cold start to first reply, prepared sandbox, code fetched from the store",
        cold,
    );
    let mut warm = Vec::with_capacity(WARM_REQUESTS);
    for _ in 0..WARM_REQUESTS {
        let invocation = bed.invocation(&functions[0], &json!({"name": "Ada"}));
        let start = Instant::now();
        let outcome = bed.pool.invoke(invocation).await;
        warm.push(start.elapsed());
        assert!(!outcome.payload.is_empty());
    }
    show("warm request, one at a time", warm);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a quiet machine and a release build"]
async fn measure_a_cold_start_with_cached_code_and_a_burst() {
    let bed = Arc::new(
        Bed::start_with(|config| {
            config.limits.idle_timeout_ms = 20;
            config.limits.prepared = 2;
        })
        .await,
    );
    let function = bed.deploy("hello", HELLO, "memory_mb = 64").await;
    let mut warm = bed.pool.warm();
    let mut cold = Vec::new();
    for _ in 0..COLD_STARTS {
        warm.wait_for(Vec::is_empty).await.unwrap();
        until_prepared(&bed).await;
        let start = Instant::now();
        let outcome = bed.call(&function, json!({"name": "Ada"})).await;
        cold.push(start.elapsed());
        assert!(outcome.usage.cold);
    }
    show(
        "cold start to first reply, prepared sandbox, cached code",
        cold,
    );
    let code = "import time\ndef f(event):\n    time.sleep(0.5)\n    return 1\n";
    let slow = bed
        .deploy("slow", code, "memory_mb = 64\ntimeout_ms = 60000")
        .await;
    let start = Instant::now();
    let calls: Vec<_> = (0..INSTANCES)
        .map(|_| {
            let (bed, slow) = (Arc::clone(&bed), Arc::clone(&slow));
            tokio::spawn(async move { reply(&bed.call(&slow, json!(null)).await) })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    println!(
        "burst of {INSTANCES} requests of 500 ms, none warm: {:?}",
        start.elapsed()
    );
    Arc::into_inner(bed).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a quiet machine and a release build"]
async fn measure_a_thaw() {
    let bed = Bed::start_with(|config| config.limits.pause_after_ms = 4).await;
    let function = bed.deploy("hello", HELLO, "memory_mb = 64").await;
    bed.call(&function, json!({"name": "Ada"})).await;
    let mut times = Vec::new();
    for _ in 0..THAWS {
        while bed.pool.snapshot().paused == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let invocation = bed.invocation(&function, &json!({"name": "Ada"}));
        let start = Instant::now();
        let outcome = bed.pool.invoke(invocation).await;
        times.push(start.elapsed());
        assert_eq!(outcome.usage.path, Some(worker::pool::Path::Paused));
    }
    show("thaw and request", times);
    let thaw = bed.pool.thaw_seconds();
    let mean = Duration::from_secs_f64(thaw.get_sample_sum() / thaw.get_sample_count() as f64);
    println!("the thaw alone: mean {mean:?}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a quiet machine and a release build"]
async fn measure_memory() {
    let bed = Bed::start_with(|config| config.limits.memory_mb = 16_384).await;
    for number in 0..INSTANCES {
        let function = bed
            .deploy(&format!("hello{number}"), HELLO, "memory_mb = 64")
            .await;
        bed.reply(&function, json!({"name": "Ada"})).await;
    }
    let needle = bed.dir.path().to_string_lossy().into_owned();
    let (mut python, mut init) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let pss: Option<u64> = pss.and_then(|kb| kb.trim().trim_end_matches(" kB").parse().ok());
        match pss {
            Some(kb) if line.contains(&needle) && line.starts_with("/usr/bin/python3") => {
                python.push(kb)
            }
            Some(kb) if line.contains(&needle) => init.push(kb),
            _ => {}
        }
    }
    let mean = |kb: &[u64]| kb.iter().sum::<u64>() / kb.len().max(1) as u64;
    println!(
        "PSS of an idle hello: python {} kB (of {}), init {} kB (of {})",
        mean(&python),
        python.len(),
        mean(&init),
        init.len()
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a quiet machine and a release build"]
async fn measure_a_cold_start_with_numpy_imported() {
    let bed = Bed::start_with(|config| {
        config.limits.idle_timeout_ms = 20;
        config.limits.prepared = 2;
    })
    .await;
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("requirements.txt"), "numpy\n").unwrap();
    let code = "import numpy\ndef f(event):\n    return int(numpy.arange(10).sum())\n";
    let function = super::zygotes::deploy_with_packages(&bed, dir.path(), "numpy", code).await;
    let mut warm = bed.pool.warm();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..=COLD_STARTS {
        warm.wait_for(Vec::is_empty).await.unwrap();
        until_prepared(&bed).await;
        let zygotes = bed.pool.zygotes().len();
        let start = Instant::now();
        let outcome = bed.call(&function, json!(null)).await;
        times[zygotes.min(1)].push(start.elapsed());
        assert_eq!(reply(&outcome), json!(45));
        while bed.pool.zygotes().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let [without, with] = times;
    show("cold start with numpy, no zygote has it", without);
    show("cold start with numpy, from a zygote that has it", with);
    bed.stop().await;
}

/// A handler that only computes, for some milliseconds, five calls deep.
const COMPUTES: &str = "
def sum_to(n):
    total = 0
    for i in range(n):
        total += i * i % 7
    return total
def deep(level):
    return sum_to(60_000) if level == 0 else deep(level - 1)
def f(event):
    return deep(5)
";
const PROFILE_ROUNDS: usize = 15;
const PROFILE_PHASE: Duration = Duration::from_secs(2);

/// Mean CPU time and median wall time of one request, in microseconds, and how many were made in a phase.
async fn computing(bed: &Bed, function: &Arc<store::CatalogEntry>) -> (f64, f64, usize) {
    let end = Instant::now() + PROFILE_PHASE;
    let (mut cpu, mut wall) = (Vec::new(), Vec::new());
    while Instant::now() < end {
        let outcome = bed.call(function, json!(null)).await;
        reply(&outcome);
        cpu.push(outcome.usage.cpu_ns as f64 / 1e3);
        wall.push(outcome.usage.wall_us as f64);
    }
    (mean(&cpu), median(&mut wall), cpu.len())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, for a quiet machine and a release build"]
async fn measure_a_profile() {
    let bed = Bed::start().await;
    let function = bed.deploy("computes", COMPUTES, "timeout_ms = 20000").await;
    computing(&bed, &function).await;
    let (mut cpu, mut wall, mut requests) = (Vec::new(), Vec::new(), [0, 0]);
    let mut before = Vec::new();
    for _ in 0..PROFILE_ROUNDS {
        let off = computing(&bed, &function).await;
        let asked = worker::profile::ProfileRequest {
            function: "computes".to_owned(),
            seconds: 2,
            hz: 99,
        };
        let (report, on) = tokio::join!(bed.pool.profile(&asked), computing(&bed, &function));
        assert!(report.unwrap().samples > 50);
        // The sampler is gone a second after its last call.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        cpu.push((on.0 / off.0 - 1.0) * 100.0);
        wall.push((on.1 / off.1 - 1.0) * 100.0);
        before.push(off.1);
        requests[0] += off.2;
        requests[1] += on.2;
    }
    let [off, on] = requests;
    println!(
        "profiled at 99 Hz, {PROFILE_ROUNDS} pairs of {PROFILE_PHASE:?}: {off} requests without, {on} with; a request \
         without: p50 {:.0} us; with, median of pairs: CPU time {:+.2} %, wall time {:+.2} %",
        median(&mut before),
        median(&mut cpu),
        median(&mut wall)
    );
    println!("CPU time by pair, sorted: {cpu:.1?}");
    bed.stop().await;
}
