//! The benchmarks of the data plane: `cargo xtask bench` builds what they need and becomes this binary.

mod cases;
mod document;
mod harness;
mod live;
mod ops;
mod plot;
#[cfg(all(test, feature = "privileged"))]
#[expect(clippy::unwrap_used, reason = "a module of tests")]
mod presented;
mod report;
mod statistics;
mod world;
mod xdp;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use occasion::Occasion;

/// Measures the data plane.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What the balancer's program costs, rule by rule.
    Xdp(xdp::Args),
    /// Packets per second through the attached program, live.
    Live(live::Args),
    /// Write measured figures into docs/performance.md.
    Document(document::Args),
    /// What single operations cost in an XDP program.
    Ops {
        /// Write the rows as JSON to this file.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Only operations whose name contains this.
        #[arg(long, default_value = "")]
        case: String,
        /// Measurements of each.
        #[arg(long, default_value_t = 9)]
        rounds: u32,
        /// Packets in a measurement.
        #[arg(long, default_value_t = 1 << 20)]
        packets: u32,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    pin(1)?;
    match args.verb {
        Verb::Xdp(args) => return xdp::run(&args),
        Verb::Live(args) => return live::run(&args),
        Verb::Document(args) => return document::run(&args),
        Verb::Ops {
            report,
            case,
            rounds,
            packets,
        } => {
            let occasion = Occasion::begin();
            let mut out = std::io::stdout().lock();
            let rows = ops::run(&case, rounds, packets)?;
            for row in &rows {
                writeln!(out, "{row}").context("printing")?;
            }
            if let Some(path) = report {
                occasion.write(&path, &serde_json::to_string_pretty(&rows)?)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Stays on one CPU, so that its caches are the only ones.
fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("pinning to one CPU")
}
