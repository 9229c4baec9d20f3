//! The benchmarks of the worker: `cargo xtask bench worker` builds this binary and becomes it.
//!
//! # Layout
//! - [`cold`]: from a request to its first reply, by the way an instance comes, beside crun and runc ([`oci`], [`hybrid`])
//! - [`burst`]: a hundred requests at once on an idle worker
//! - [`turnover`]: sandboxes made and removed a second, and what an idle one costs in memory
//! - [`warm`]: requests a second and latency of a warm function, by the way a request comes, and [`floor`], what the
//!   machine takes for two processes to wake one another
//! - [`parked`]: a hundred thousand requests that wait
//! - [`row`], [`plot`]: the report, for programs and for people
//!
//! Cases are interleaved: each takes its turn in each round, so that what else the machine does meets all of them alike.

mod burst;
mod cold;
mod floor;
mod hybrid;
mod oci;
mod parked;
mod plot;
mod pools;
mod row;
mod turnover;
mod warm;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use occasion::Occasion;
use row::Row;
use worker::{cpu_latency::Hold, pool::PoolConfig};

/// Where `cargo xtask bench document` looks for what it puts into docs/performance.md.
const FRAGMENT: &str = "target/bench/worker.md";

/// Measures the worker.
#[derive(Debug, Parser)]
struct Args {
    /// Write the rows as JSON to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Draw them as SVG into this file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Only cases whose name contains this; may be given several times.
    #[arg(long, value_name = "PART")]
    case: Vec<String>,
    /// When the worker asks the kernel that idle processors be easy to wake (`[cpu_latency]`): `never`, `busy` or `always`.
    #[arg(long, default_value = "busy", value_parser = hold)]
    hold: Hold,
    /// Few rounds: shows that everything works, measures little.
    #[arg(long)]
    quick: bool,
}

/// What to measure, and how long.
#[derive(Debug, Clone)]
struct Scope {
    /// Parts of names of cases; all cases if there are none.
    cases: Vec<String>,
    hold: Hold,
    is_quick: bool,
}

impl Scope {
    /// Whether `case` was asked for.
    fn has(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|part| case.contains(part))
    }

    /// What all pools have in common.
    fn fit(&self, config: &mut PoolConfig) {
        config.cpu_latency.hold = self.hold;
    }

    /// `full`, or a small part of it.
    fn rounds(&self, full: usize) -> usize {
        if self.is_quick {
            full.div_ceil(8)
        } else {
            full
        }
    }
}

/// The word of a worker's configuration.
fn hold(word: &str) -> Result<Hold, serde_json::Error> {
    serde_json::from_value(word.into())
}

fn main() -> ExitCode {
    // The sandboxes of the pools here are made by this very executable.
    if let Some(code) = worker::sandbox::init_main(std::env::args_os().skip(1)) {
        return code;
    }
    // And so is the cell that numpy is resolved in.
    if let Some(code) = packages::cell::cell_main(std::env::args_os().skip(1)) {
        return code;
    }
    let done = match std::env::args().nth(1).as_deref() {
        Some(parked::VERB) => runtime().and_then(|runtime| runtime.block_on(parked::be_the_host())),
        Some(floor::VERB) => floor::be_the_echo(),
        _ => run(&Args::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    testbed::run::need_root()?;
    let occasion = Occasion::begin();
    hybrid::own_mounts()?;
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "error".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let scope = Scope {
        cases: args.case.clone(),
        hold: args.hold,
        is_quick: args.quick,
    };
    let runtime = runtime()?;
    // In a task, not in `block_on`: there each answer would have to be handed from a worker thread to this one.
    let (rows, failures) = runtime.block_on(runtime.spawn(measure(scope)))?;
    write!(std::io::stdout(), "{}", row::table(&rows)).context("printing the table")?;
    let occasion = occasion.end();
    if let Some(path) = &args.report {
        make_folder_of(path)?;
        let json = serde_json::to_string_pretty(&rows)?;
        occasion.clone().write(path, &json)?;
    }
    if let Some(path) = &args.plot {
        write_file(path, &plot::svg(&rows))?;
    }
    if args.case.is_empty() && failures.is_empty() {
        let text = format!("{}\n\n{}", occasion.line(), row::markdown(&rows));
        write_file(Path::new(FRAGMENT), &text)?;
    }
    for failure in &failures {
        say(&format!("error: {failure:#}"));
    }
    ensure!(failures.is_empty(), "{} groups failed", failures.len());
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")
}

/// The rows of all groups that could be measured, and what became of the others: one that fails takes none of an hour's
/// work along.
async fn measure(scope: Scope) -> (Vec<Row>, Vec<anyhow::Error>) {
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    let mut take = |what: &'static str, group: Result<Vec<Row>>| match group {
        Ok(group) => rows.extend(group),
        Err(error) => failures.push(error.context(what)),
    };
    take("measuring first replies", cold::rows(&scope).await);
    take("measuring a burst", burst::rows(&scope).await);
    take("measuring turnover", turnover::rows(&scope).await);
    take("measuring parked requests", parked::rows(&scope).await);
    take("measuring the floor", floor::rows(&scope));
    take("measuring warm requests", warm::rows(&scope).await);
    (rows, failures)
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    make_folder_of(path)?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn make_folder_of(path: &Path) -> Result<()> {
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))
}

/// A line about where we are, for whoever waits.
fn say(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}
