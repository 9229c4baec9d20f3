//! What was measured, as a table and as JSON.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use occasion::Occasion;
use serde_json::json;

use crate::client::Policy;

const SHARES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// One turn of one policy.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Ascending.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) by_worker: Vec<u64>,
    pub(crate) load_packets: u64,
    pub(crate) load_taken_in: u64,
}

/// All turns.
#[derive(Debug)]
pub(crate) struct Report {
    mean_us: u64,
    parallel: usize,
    slower: [u32; 3],
    seconds: u64,
    rounds: u32,
    turns: BTreeMap<(u32, Policy), Vec<Measured>>,
}

/// One policy under one load, all turns together.
struct Row {
    /// In milliseconds: over the requests of all turns; lowest and highest of a turn.
    quantiles: [(f64, f64, f64); 3],
    requests: usize,
    by_worker: Vec<u64>,
    load_packets: u64,
    load_taken_in: u64,
}

impl Report {
    pub(crate) const fn new(
        mean_us: u64,
        parallel: usize,
        slower: [u32; 3],
        seconds: u64,
        rounds: u32,
    ) -> Self {
        Self {
            mean_us,
            parallel,
            slower,
            seconds,
            rounds,
            turns: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, load: u32, policy: Policy, measured: Measured) {
        let turns = self.turns.entry((load, policy)).or_default();
        turns.push(measured);
    }

    /// Rows of one load, ours first.
    fn rows(&self) -> Result<BTreeMap<u32, [Row; 3]>> {
        let mut rows = BTreeMap::new();
        for (load, _) in self.turns.keys() {
            let of = |policy| {
                row(self
                    .turns
                    .get(&(*load, policy))
                    .context("a policy is missing")?)
            };
            let [warm, round_robin, random] = Policy::ALL;
            rows.insert(*load, [of(warm)?, of(round_robin)?, of(random)?]);
        }
        Ok(rows)
    }

    /// The table for people, in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| load | policy | requests | p50 ms | p99 ms (turns) | p99.9 ms | p50 ratio | p99 ratio | by worker |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        let rows = self.rows().unwrap_or_default();
        for (load, rows) in &rows {
            let [(p50_ours, ..), (p99_ours, ..), _] = rows[0].quantiles;
            for (policy, row) in Policy::ALL.iter().zip(rows) {
                let [(p50, ..), (p99, low, high), (p999, ..)] = row.quantiles;
                let name = policy.name();
                let _infallible = writeln!(
                    text,
                    "| {load} % | {name} | {} | {p50:.2} | {p99:.1} ({low:.1}–{high:.1}) | {p999:.1} | {:.2} | {:.2} | {:?} |",
                    row.requests,
                    p50 / p50_ours,
                    p99 / p99_ours,
                    row.by_worker,
                );
            }
        }
        let taken_in: u64 = rows.values().flatten().map(|row| row.load_taken_in).sum();
        let sent: u64 = rows.values().flatten().map(|row| row.load_packets).sum();
        let _infallible = write!(
            text,
            "\n{} turns of {} s for each policy and load; mean time of a request {} µs, {} at a time, times {:?} by worker.\n\
             {sent} LOAD packets sent, {taken_in} taken in by the program.",
            self.rounds, self.seconds, self.mean_us, self.parallel, self.slower
        );
        text
    }

    /// The figures for machines.
    pub(crate) fn json(&self) -> Result<String> {
        let mut list = Vec::new();
        for (load, rows) in self.rows()? {
            for (policy, row) in Policy::ALL.iter().zip(rows) {
                let [p50, p99, p999] = row.quantiles.map(|(all, low, high)| {
                    json!({"ms": all, "lowest_turn_ms": low, "highest_turn_ms": high})
                });
                list.push(json!({
                    "load_percent": load,
                    "policy": policy.name(),
                    "requests": row.requests,
                    "p50": p50,
                    "p99": p99,
                    "p999": p999,
                    "by_worker": row.by_worker,
                    "load_packets_sent": row.load_packets,
                    "load_packets_taken_in": row.load_taken_in,
                }));
            }
        }
        Ok(serde_json::to_string_pretty(&list)?)
    }

    /// That our p99 is the lowest under each load.
    pub(crate) fn check(&self) -> Result<()> {
        for (load, [ours, others @ ..]) in self.rows()? {
            for other in others {
                let (ours, other) = (ours.quantiles[1].0, other.quantiles[1].0);
                ensure!(
                    ours < other,
                    "at {load} % our p99 of {ours:.2} ms is not below {other:.2} ms"
                );
            }
        }
        Ok(())
    }
}

/// Writes a report as `json`, and beside it as a section of docs/performance.md, with when and where it was made.
pub(crate) fn write(path: &Path, occasion: Occasion, json: &str, table: &str) -> Result<()> {
    let occasion = occasion.end();
    let page = path.with_extension("md");
    fs::write(&page, format!("{}\n\n{table}", occasion.line()))
        .with_context(|| format!("writing {}", page.display()))?;
    occasion.write(path, json)
}

fn row(turns: &[Measured]) -> Result<Row> {
    let mut all: Vec<Duration> = turns
        .iter()
        .flat_map(|turn| turn.latencies.clone())
        .collect();
    all.sort_unstable();
    let first = turns.first().context("no turn")?;
    let mut by_worker = vec![0; first.by_worker.len()];
    for turn in turns {
        for (sum, count) in by_worker.iter_mut().zip(&turn.by_worker) {
            *sum += count;
        }
    }
    let quantiles = SHARES.map(|(_, share)| {
        let by_turn = turns.iter().map(|turn| quantile_ms(&turn.latencies, share));
        let (low, high) = by_turn.fold((f64::INFINITY, 0.0_f64), |(low, high), ms| {
            (low.min(ms), high.max(ms))
        });
        (quantile_ms(&all, share), low, high)
    });
    Ok(Row {
        quantiles,
        requests: all.len(),
        by_worker,
        load_packets: turns.iter().map(|turn| turn.load_packets).sum(),
        load_taken_in: turns.iter().map(|turn| turn.load_taken_in).sum(),
    })
}

/// The latency that `share` of the requests stay below.
fn quantile_ms(ascending: &[Duration], share: f64) -> f64 {
    let index = (ascending.len() as f64 * share) as usize;
    let found = ascending.get(index.min(ascending.len().saturating_sub(1)));
    found.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
}
