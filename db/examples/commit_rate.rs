//! Measures the embedded engine: durable commits (a write and its feed record, synced) by one writer and
//! by 64, and reads. `cargo run --release -p db --example commit_rate [FOLDER]`; the folder must be on
//! the disk to measure, and a database is made and removed there.

use std::{
    error::Error,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use db::{Embedded, Engine, Metrics, Op, Options};

/// How long each case runs.
const CASE_TIME: Duration = Duration::from_secs(3);
/// Bytes of a value.
const VALUE_BYTES: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let place = tempfile::tempdir_in(folder)?;
    let engine = Embedded::open(place.path(), Options::default(), &Metrics::unregistered())?;
    let mut out = std::io::stdout().lock();
    for writers in [1, 8, 64] {
        let before = engine.health();
        let samples = run(&engine, writers, |writer, step| Op::Put {
            key: format!("{{{}}}{}", writer * 31 + step % 7, step).into_bytes(),
            value: vec![step as u8; VALUE_BYTES],
        });
        let after = engine.health();
        let commits = (after.commits - before.commits) as f64;
        let syncs = (after.syncs - before.syncs) as f64;
        let shared = commits / syncs;
        writeln!(
            out,
            "put, {writers:2} writers: {} ({shared:.1} commits a sync)",
            report(samples)
        )?;
    }
    let samples = run(&engine, 1, |_, step| Op::Get {
        key: format!("{{{}}}{}", step % 7, step % 1_000).into_bytes(),
    });
    writeln!(out, "get,  1 reader:  {}", report(samples))?;
    Ok(())
}

/// Latencies of every op that `threads` threads completed.
fn run(engine: &Embedded, threads: u64, op: impl Fn(u64, u64) -> Op + Sync) -> Vec<Duration> {
    let ends = Instant::now() + CASE_TIME;
    let work = |thread: u64| {
        let mut samples = Vec::new();
        for step in 0.. {
            let started = Instant::now();
            if started >= ends || engine.execute(&op(thread, step)).is_err() {
                break;
            }
            samples.push(started.elapsed());
        }
        samples
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let work = &work;
                scope.spawn(move || work(thread))
            })
            .collect();
        handles
            .into_iter()
            .flat_map(|handle| handle.join().unwrap_or_default())
            .collect()
    })
}

fn report(mut samples: Vec<Duration>) -> String {
    samples.sort_unstable();
    let at = |share: f64| {
        let index = (samples.len() as f64 * share) as usize;
        samples
            .get(index)
            .map_or(0.0, |sample| sample.as_secs_f64() * 1e6)
    };
    let rate = samples.len() as f64 / CASE_TIME.as_secs_f64();
    format!("{rate:.0}/s, p50 {:.0} us, p99 {:.0} us", at(0.5), at(0.99))
}
