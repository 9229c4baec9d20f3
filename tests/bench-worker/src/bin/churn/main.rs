//! `cargo xtask churn`: a worker under handlers that misbehave, while its instances, zygotes and the worker itself are
//! killed at random; afterwards nothing may be left on the host, and its memory must be what it was.
//!
//! The worker is the product's own role ([`worker::run`]) in a process of its own, called over UDP. Two phases:
//!
//! 1. A quarter of the sandboxes; the worker is killed with SIGKILL again and again, and its successor must come to a clean
//!    host.
//! 2. The rest in one life of the worker; at every eighth the load stops until the pool rests, and what it holds then is
//!    counted ([`holdings`]): it must be the same each time.
//!
//! Host user ids are so few that a leak of one in a hundred sandboxes ends the run.
//!
//! # Layout
//! - [`host`]: the store, the worker's process, its configuration and metrics
//! - [`load`]: the calls, [`chaos`]: the kills
//! - [`holdings`]: what the worker holds, and whether it grows

mod chaos;
mod holdings;
mod host;
mod load;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use indicatif::ProgressBar;
use testbed::wait;

use chaos::Chaos;
use holdings::{Holdings, judge};
use host::Host;
use load::Load;

/// Looks at the second phase.
const LOOKS: u64 = 8;
/// Lives of the worker in the first phase.
const LIVES: u64 = 10;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// A worker that starts no sandbox for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);
const REST_TIMEOUT: Duration = Duration::from_secs(60);
/// Nothing is made or removed for so long when the pool rests.
const AT_REST: Duration = Duration::from_millis(300);

/// Makes and removes sandboxes under random kills, and looks for what is left.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Sandboxes that get a function and are removed.
    #[arg(long, default_value_t = 20_000)]
    sandboxes: u64,
    /// What the calls and kills follow from [default: another each time].
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The worker's process.
    #[command(hide = true)]
    Worker {
        /// Its `worker.toml`.
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    if let Some(code) = worker::sandbox::init_main(std::env::args_os().skip(1)) {
        return code;
    }
    let args = Args::parse();
    let done = match &args.role {
        Some(Role::Worker { config }) => host::be_the_worker(config),
        None => run(args.sandboxes, args.seed.unwrap_or_else(rand::random)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(sandboxes: u64, seed: u64) -> Result<()> {
    testbed::run::need_root()?;
    ensure!(
        sandboxes >= LIVES * LOOKS,
        "at least {} sandboxes are needed",
        LIVES * LOOKS
    );
    say(&format!("churn: {sandboxes} sandboxes, seed {seed}"))?;
    let start = Instant::now();
    let mut host = Host::start()?;
    let progress = ProgressBar::new(sandboxes);
    let load = Load::start(&host, seed)?;
    let mut chaos = Chaos::new(seed);
    for life in 1..=LIVES {
        let until = sandboxes / 4 * life / LIVES;
        churn(&mut host, &load, &mut chaos, until, &progress)?;
        host.kill_worker()?;
        host.start_worker()?;
    }
    let first = rest(&mut host, &load)?;
    let mut looks = vec![first];
    let second_phase = sandboxes - sandboxes / 4;
    for look in 1..=LOOKS {
        let until = sandboxes / 4 + second_phase * look / LOOKS;
        load.resume();
        churn(&mut host, &load, &mut chaos, until, &progress)?;
        looks.push(rest(&mut host, &load)?);
    }
    progress.finish_and_clear();
    let calls = load.stop()?;
    host.stop_worker()?;
    for look in &looks {
        say(&look.to_string())?;
    }
    say(&format!("calls: {calls}"))?;
    say(&format!("kills: {chaos}"))?;
    let faults = [judge(&looks), host.leftovers(), calls.faults()].concat();
    let made = host.made();
    say(&format!(
        "{made} sandboxes in {:.0} s, {:.1} a second; worker started {} times",
        start.elapsed().as_secs_f64(),
        made as f64 / start.elapsed().as_secs_f64(),
        host.lives(),
    ))?;
    for fault in &faults {
        say(&format!("LEFT: {fault}"))?;
    }
    ensure!(
        faults.is_empty(),
        "{} faults, with seed {seed}",
        faults.len()
    );
    say(
        "nothing left: no process, mount, control group, namespace, file descriptor or user id; memory flat",
    )
}

/// Lets load and kills go on until so many sandboxes have been made.
fn churn(
    host: &mut Host,
    load: &Load,
    chaos: &mut Chaos,
    until: u64,
    progress: &ProgressBar,
) -> Result<()> {
    let mut last = (host.made(), Instant::now());
    while last.0 < until {
        std::thread::sleep(LOOK_INTERVAL);
        host.look()?;
        let made = host.made();
        if made > last.0 {
            chaos.strike(host, made - last.0)?;
            progress.set_position(made);
            last = (made, Instant::now());
        }
        load.check()?;
        ensure!(
            last.1.elapsed() < STUCK,
            "no sandbox was made for {STUCK:?}:\n{}",
            host.log_tail()
        );
    }
    Ok(())
}

/// Stops the load, waits until the worker has nothing left but what it keeps ready, and that for a while, and counts that.
fn rest(host: &mut Host, load: &Load) -> Result<Holdings> {
    load.pause();
    let mut seen: Option<Holdings> = None;
    let mut since = Instant::now();
    wait::until("the pool to come to rest", REST_TIMEOUT, || {
        host.look()?;
        let holdings = Holdings::take(host)?;
        let is_same = (seen.as_ref()).is_some_and(|before| before.has_as_many(&holdings));
        if !is_same || !holdings.is_at_rest() {
            since = Instant::now();
        }
        let rests = since.elapsed() >= AT_REST;
        let holdings = seen.insert(holdings);
        Ok(rests.then(|| holdings.clone()))
    })
    .with_context(|| format!("it holds {seen:?}; it said {}", host.log_tail()))
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("printing")
}

/// The file name of this executable.
fn executable() -> Result<PathBuf> {
    std::env::current_exe().context("finding this executable")
}

/// Whether `path` is below `dir`, as text in lists of the kernel.
fn mentions(text: &str, dir: &Path) -> bool {
    text.contains(&*dir.to_string_lossy())
}
