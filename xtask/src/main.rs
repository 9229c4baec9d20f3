//! `cargo xtask`: the one front door to setting up, building, testing and showing the project.

mod bench;
mod build_ebpf;
mod ci;
mod coverage;
mod demo;
mod fuzz;
mod kernels;
mod pktgen;
mod rootfs;
mod setup;
mod shell;
mod test;
mod toolchain;
mod wheels;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Sets up, builds, tests and shows Warmpath.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find or install what the eBPF build, the demo and the privileged tests need.
    Setup {
        /// Only look: say what is missing, change nothing.
        #[arg(long)]
        check: bool,
        /// Also what `cargo xtask kernels` needs: an emulator.
        #[arg(long)]
        kernels: bool,
    },
    /// Build the XDP program and the `warmpath` binary.
    Build {
        /// Only the XDP program.
        #[arg(long)]
        ebpf_only: bool,
    },
    /// Run the tests of all floors.
    Test {
        /// Leave out the floors that need root.
        #[arg(long)]
        unprivileged: bool,
    },
    /// Fetch the packages that the platform floor's functions require; `test` does it too.
    Wheels(wheels::Args),
    /// Build the root file system that tests run sandboxes in; `test` does it too.
    Rootfs(rootfs::Args),
    /// Check formatting, lints and coverage, then run the tests: all that CI does.
    Ci,
    /// Measure which lines of the data plane the host's tests reach: 95 % of each stage, or it fails.
    Coverage(coverage::Args),
    /// Fuzz the parsers that run on the host, each for some seconds.
    Fuzz(fuzz::Args),
    /// Build everything, run the whole platform in network namespaces, and report what it does.
    Demo(demo::Args),
    /// Run the program tests, or those of sandboxes, on Linux 6.1 and 6.12, in virtual machines, and on this machine's kernel.
    Kernels(kernels::Args),
    /// Measure: the XDP program rule by rule, single operations, live traffic.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Make and remove 20,000 sandboxes under random kills, and look for whatever is left.
    #[command(disable_help_flag = true)]
    Churn(bench::PassedOn),
    /// Send packets by the kernel's pktgen, read its results, or run it against the program in a virtual machine.
    #[command(subcommand)]
    Pktgen(pktgen::Verb),
    /// Remove what killed demos and tests left behind.
    Clean,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            shell::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode> {
    let root = root()?;
    match args.verb {
        Verb::Setup { check, kernels } => setup::run_for(
            if check {
                setup::Mode::Check
            } else {
                setup::Mode::Install
            },
            if kernels {
                setup::Purpose::Kernels
            } else {
                setup::Purpose::Project
            },
        )?,
        Verb::Build { ebpf_only } => {
            setup::run(setup::Mode::Install)?;
            build_ebpf::build_ebpf(&root)?;
            if !ebpf_only {
                shell::cargo(&root, &["build", "--release", "--package", "cli"])?;
            }
        }
        Verb::Test { unprivileged } => {
            return test::run(
                &root,
                if unprivileged {
                    test::Floors::Unprivileged
                } else {
                    test::Floors::All
                },
            );
        }
        Verb::Wheels(args) => wheels::run(&root, &args)?,
        Verb::Rootfs(args) => rootfs::run(&root, &args)?,
        Verb::Ci => return ci::run(&root),
        Verb::Coverage(args) => return coverage::run(&root, &args),
        Verb::Fuzz(args) => return fuzz::run(&root, &args),
        Verb::Demo(args) => return demo::run(&root, &args),
        Verb::Kernels(args) => return kernels::run(&root, &args),
        Verb::Bench(bench) => return bench::run(&root, &bench),
        Verb::Churn(args) => return bench::churn(&root, &args),
        Verb::Pktgen(verb) => return pktgen::run(&root, &verb),
        Verb::Clean => return demo::clean(&root),
    }
    Ok(ExitCode::SUCCESS)
}

/// The root of the workspace.
fn root() -> Result<PathBuf> {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here
        .parent()
        .context("xtask has no parent folder")?
        .to_owned())
}
