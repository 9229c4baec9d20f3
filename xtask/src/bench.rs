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
    /// What single operations cost in an XDP program.
    #[command(disable_help_flag = true)]
    Ops(PassedOn),
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
    shell::cargo(root, &["build", "--release", "--package", "bench"])?;
    let (verb, passed_on) = match bench {
        Bench::Xdp(passed_on) => ("xdp", passed_on),
        Bench::Ops(passed_on) => ("ops", passed_on),
    };
    let mut command = Command::new(demo::binary(root, "bench"));
    command.arg(verb).args(&passed_on.args);
    demo::become_it(command)
}
