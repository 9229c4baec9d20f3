//! Measurements with real packets between namespaces: `cargo xtask bench load` builds what they need and becomes this binary.
//!
//! - `scene`: client, balancer and workers as namespaces, the loaded program between them
//! - `worker`: a worker that answers after a drawn time, and tells of its load with the product's own sender
//! - `client`: requests at a fixed rate, whatever comes back
//! - `compare`, `report`: the warm rule against round robin and random choice
//! - `loss`: tables and program changed under load, without a packet lost

mod client;
mod compare;
mod loss;
mod report;
mod scene;
mod worker;

use std::{io::Write as _, process::ExitCode};

use clap::{Parser, Subcommand};

/// Measures the data plane under live traffic.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Latency with one slow worker of three: the warm rule, round robin and random choice.
    Load(compare::Args),
    /// Tables and program changed under load: no packet is lost, and each comes to a right worker.
    Loss(loss::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().verb {
        Verb::Load(args) => compare::run(&args),
        Verb::Loss(args) => loss::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
