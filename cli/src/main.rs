//! `warmpath`: every role and every operator's verb in one binary. No logic here: parse, start, report.
#![forbid(unsafe_code)]

mod args;
mod bundle;
mod flame;
mod openlambda;
mod output;
mod prices;
mod verb;

use std::process::ExitCode;

use clap::Parser;

use crate::{args::Args, output::Exit};

fn main() -> ExitCode {
    // A worker starts this same file again to make a sandbox; that process must stay single-threaded,
    // so it leaves here, before anything else exists.
    if let Some(exit) = worker::sandbox::init_main(std::env::args_os().skip(1)) {
        return exit;
    }
    // Likewise `fn deploy` and the cell that it resolves packages in.
    if let Some(exit) = packages::cell::cell_main(std::env::args_os().skip(1)) {
        return exit;
    }
    let args = Args::parse();
    start_tracing();
    match verb::run(args) {
        Ok(exit) => exit.into(),
        Err(error) if output::is_broken_pipe(&error) => Exit::Ok.into(),
        Err(error) => {
            output::talk(format_args!("warmpath: {error:#}"));
            Exit::Failed.into()
        }
    }
}

/// Logs go to stderr, `info` and above unless `RUST_LOG` says otherwise.
fn start_tracing() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
