//! `warmpath worker pool`: the instances of a worker on this machine.

use std::path::Path;

use anyhow::Result;
use worker::{
    api::client::WorkerClient,
    cpu_latency::{CpuLatencyStanding, Hold},
    pool::{FunctionStanding, Path as From, PoolStanding},
};

use crate::{
    args::OutputArgs,
    output::{self, Exit, Table},
};

pub(super) async fn pool(socket: &Path, output: &OutputArgs) -> Result<Exit> {
    let standing = WorkerClient::new(socket)?.pool().await?;
    if output.json {
        output::json(&standing)?;
    } else {
        print(&standing)?;
    }
    Ok(Exit::Ok)
}

fn print(standing: &PoolStanding) -> Result<()> {
    let numbers = &standing.numbers;
    output::line(format_args!(
        "{}: {} of {} MB, {} sandboxes prepared, {} requests waiting",
        standing.worker,
        numbers.memory_mb,
        standing.memory_limit_mb,
        numbers.prepared,
        numbers.waiting
    ))?;
    output::line(format_args!("root file system: {}", standing.rootfs))?;
    output::line(cpu_latency(&standing.cpu_latency))?;
    let paths = From::ALL.iter().zip(numbers.paths);
    let paths: Vec<String> = paths
        .map(|(path, count)| format!("{} {count}", path.name()))
        .collect();
    output::line(format_args!("requests by path: {}", paths.join(", ")))?;
    output::line(format_args!(
        "evicted: {} idle, {} for memory; ended after an error: {}",
        numbers.evictions - numbers.evicted_for_memory,
        numbers.evicted_for_memory,
        numbers.destroyed
    ))?;
    output::line("")?;
    let mut table = Table::new(&[
        "function",
        "starting",
        "warm",
        "paused",
        "busy",
        "min",
        "mb",
        "keep",
        "prewarm",
        "cold start",
    ]);
    standing
        .functions
        .iter()
        .for_each(|function| table.row(row(function)));
    table.print()
}

/// How long waking an idle processor may take.
fn cpu_latency(standing: &CpuLatencyStanding) -> String {
    let CpuLatencyStanding {
        hold,
        limit_us,
        is_held,
        held_seconds,
    } = standing;
    let when = match hold {
        Hold::Never => return "idle processors: sleep as the machine is set up".to_owned(),
        Hold::Busy => "while requests come",
        Hold::Always => "always",
    };
    let now = if *is_held { "held now" } else { "not held now" };
    format!("idle processors: awake within {limit_us} us {when}; {now}, {held_seconds:.1} s in all")
}

fn row(function: &FunctionStanding) -> Vec<String> {
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1e3);
    vec![
        function.function.clone(),
        function.starting.to_string(),
        function.warm.to_string(),
        function.paused.to_string(),
        function.busy.to_string(),
        function.min_warm.to_string(),
        function.memory_mb.to_string(),
        seconds(function.keep_alive_ms),
        function
            .prewarm_after_ms
            .map_or_else(|| "-".to_owned(), seconds),
        match function.cold_start_us {
            0 => "-".to_owned(),
            us => format!("{:.1} ms", us as f64 / 1e3),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_idle_processors_is_told() {
        let mut standing = CpuLatencyStanding {
            hold: Hold::Never,
            limit_us: 0,
            is_held: false,
            held_seconds: 0.0,
        };
        assert_eq!(
            cpu_latency(&standing),
            "idle processors: sleep as the machine is set up"
        );
        (standing.hold, standing.is_held, standing.held_seconds) = (Hold::Busy, true, 12.34);
        assert_eq!(
            cpu_latency(&standing),
            "idle processors: awake within 0 us while requests come; held now, 12.3 s in all"
        );
    }

    #[test]
    fn a_row_says_when_an_instance_is_started_ahead_and_what_that_takes() {
        let mut function: FunctionStanding = serde_json::from_value(serde_json::json!({
            "function": "hello@latest", "starting": 0, "warm": 1, "paused": 2, "busy": 3, "wanted": 0,
            "memory_mb": 384, "min_warm": 1, "keep_alive_ms": 60_000, "cold_start_us": 0,
        }))
        .unwrap();
        assert_eq!(row(&function)[7..], ["60.0 s", "-", "-"]);
        function.prewarm_after_ms = Some(3_240_000);
        function.cold_start_us = 4_250;
        assert_eq!(row(&function)[7..], ["60.0 s", "3240.0 s", "4.2 ms"]);
    }
}
