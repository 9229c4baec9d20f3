//! `cargo xtask bench`: builds what a benchmark needs, then becomes it.

use std::{
    ffi::OsString,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};

use crate::{build_ebpf, demo, setup, shell};

/// Which benchmark.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// What the XDP program costs, rule by rule, by BPF_PROG_TEST_RUN.
    #[command(disable_help_flag = true)]
    Xdp(PassedOn),
    /// Packets per second through the attached program, live in network namespaces, on one CPU.
    #[command(disable_help_flag = true)]
    Live(PassedOn),
    /// What single operations cost in an XDP program.
    #[command(disable_help_flag = true)]
    Ops(PassedOn),
    /// Latency with one slow worker of three: the warm rule, round robin and random choice.
    #[command(disable_help_flag = true)]
    Load(PassedOn),
    /// Tables and program changed under load: no packet is lost, and each comes to a right worker.
    #[command(disable_help_flag = true)]
    Loss(PassedOn),
}

/// Arguments of the benchmark itself; `--help` lists them.
#[derive(Debug, clap::Args)]
pub(crate) struct PassedOn {
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<OsString>,
}

/// Builds and runs `bench`.
pub(crate) fn run(root: &Path, bench: &Bench) -> Result<ExitCode> {
    if !shell::is_root() {
        bail!("benchmarks load XDP programs: run them as root");
    }
    setup::run(setup::Mode::Install)?;
    build_ebpf::build_ebpf(root)?;
    let (package, verb, passed_on) = match bench {
        Bench::Xdp(passed_on) => ("bench", "xdp", passed_on),
        Bench::Live(passed_on) => ("bench", "live", passed_on),
        Bench::Ops(passed_on) => ("bench", "ops", passed_on),
        Bench::Load(passed_on) => ("traffic", "load", passed_on),
        Bench::Loss(passed_on) => ("traffic", "loss", passed_on),
    };
    shell::cargo(root, &["build", "--release", "--package", package])?;
    let mut command = Command::new(demo::binary(root, package));
    command.arg(verb).args(&passed_on.args);
    demo::become_it(command)
}
