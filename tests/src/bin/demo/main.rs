//! The demo: the whole platform in network namespaces, shown with numbers read back from the system itself.
//!
//! `demo run` starts the platform and shows parts (a) to (g); `demo load` is its load generator, which it starts
//! in the client's namespace; `demo clean` removes what a killed run left. `cargo xtask demo` builds everything
//! and calls this.

mod drawing;
mod figures;
mod screen;
mod show;
mod signals;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use ::tests::{
    cluster::{Cluster, Options},
    load, run,
};
use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::{
    screen::Screen,
    show::{Scale, Stage},
};

/// Shows the whole platform at work.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start the platform and show what it does.
    Run(RunArgs),
    /// Generate load: the demo starts this in the client's namespace.
    Load {
        /// What to send, as JSON.
        plan: String,
    },
    /// Remove what killed runs left behind.
    Clean,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The `warmpath` binary.
    #[arg(long)]
    warmpath: PathBuf,
    /// The folder with the example functions.
    #[arg(long)]
    examples: PathBuf,
    /// Write the figures as JSON to this file, and a drawing beside it.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Leave the platform running, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// A tenth of the requests.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let screen = Screen;
    let result = match Args::parse().verb {
        Verb::Run(args) => start(&args, &screen),
        Verb::Load { plan } => return load::main(&plan),
        Verb::Clean => clean(&screen),
    };
    // After a signal everything fails, because everything is being removed: that is not worth a message.
    signals::yield_to_removal();
    match result {
        Ok(code) => code,
        Err(error) => {
            screen.complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(args: &RunArgs, screen: &Screen) -> Result<ExitCode> {
    run::need_root()?;
    signals::watch()?;
    report_removed(screen)?;
    let begin = Instant::now();
    let mut stage = screen.during("starting the platform", || {
        let mut options = Options::new(&args.warmpath);
        options.xdp_mode = "native".to_owned();
        let cluster = Cluster::start(&options)?;
        Stage::new(cluster, screen, &args.examples, Scale::of(args.quick))
    })?;
    show::all(&mut stage)?;
    let broken = stage.figures.broken_promises();
    let took = begin.elapsed();
    finish_report(args, screen, &stage)?;
    for promise in &broken {
        screen.complain(&format!("BROKEN PROMISE: {promise}"));
    }
    if broken.is_empty() {
        screen.say(&format!(
            "\nEverything that was promised held. The demo took {:.0} s.",
            took.as_secs_f64()
        ));
    }
    if args.keep {
        keep(screen, &stage.cluster, args)?;
    }
    screen.during("stopping the platform", || stage.cluster.stop())?;
    Ok(if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn finish_report(args: &RunArgs, screen: &Screen, stage: &Stage<'_>) -> Result<()> {
    let Some(path) = &args.report else {
        return Ok(());
    };
    let json = serde_json::to_string_pretty(&stage.figures).context("encoding the report")?;
    std::fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
    let drawing = path.with_extension("svg");
    std::fs::write(&drawing, drawing::draw(&stage.pictures))
        .with_context(|| format!("writing {}", drawing.display()))?;
    screen.say(&format!(
        "\nFigures: {}\nDrawing: {}",
        path.display(),
        drawing.display()
    ));
    Ok(())
}

/// Leaves everything running until a signal ends the process.
fn keep(screen: &Screen, cluster: &Cluster, args: &RunArgs) -> Result<()> {
    screen.say(&show::next_commands(cluster, &args.warmpath));
    loop {
        // A role that dies while somebody looks is worth a word.
        if let Err(error) = cluster.status() {
            screen.complain(&format!("the control plane does not answer: {error:#}"));
            std::thread::park();
        }
        std::thread::park_timeout(Duration::from_secs(1));
        signals::yield_to_removal();
    }
}

fn clean(screen: &Screen) -> Result<ExitCode> {
    run::need_root()?;
    if !report_removed(screen)? {
        screen.say("nothing was left behind");
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes what killed runs left, says so, and returns whether there was anything.
fn report_removed(screen: &Screen) -> Result<bool> {
    let removed = run::remove_stale()?;
    for run in &removed {
        screen.say(&format!(
            "removed what the killed run {} had left: {} namespaces, {} processes",
            run.id, run.namespaces, run.processes
        ));
    }
    Ok(!removed.is_empty())
}
