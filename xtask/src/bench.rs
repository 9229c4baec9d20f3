//! `cargo xtask bench`: builds what a benchmark needs, then becomes it.

use std::{
    ffi::OsString,
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{build_ebpf, demo, setup, shell};

/// Where `bench all` leaves its reports, below the workspace's root.
const REPORTS: &str = "target/bench";

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
    /// What the control plane costs with a million functions and 4,096 workers: load, changes, CPU, memory.
    #[command(disable_help_flag = true)]
    Control(PassedOn),
    /// All of the data plane's figures, and docs/performance.md written anew with them.
    All {
        /// A third of the rounds and a quarter of the packets: shows that everything works, measures little.
        #[arg(long)]
        quick: bool,
    },
    /// Write docs/performance.md anew from the reports of the last runs in target/bench.
    Document,
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
        Bench::All { quick } => return all(root, *quick),
        Bench::Document => return document(root),
        Bench::Control(passed_on) => return control(root, passed_on),
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

/// The control plane's benchmark is an example of its crate, which builds in a fraction of the time of the others.
fn control(root: &Path, passed_on: &PassedOn) -> Result<ExitCode> {
    let example = [
        "--package",
        "balancer-userspace",
        "--example",
        "bench-control",
    ];
    let build: Vec<&str> = ["build", "--release"].into_iter().chain(example).collect();
    shell::cargo(root, &build)?;
    let mut command = Command::new(root.join("target/release/examples/bench-control"));
    command.args(&passed_on.args).current_dir(root);
    demo::become_it(command)
}

/// Runs what docs/performance.md shows, one after the other, and writes it.
fn all(root: &Path, quick: bool) -> Result<ExitCode> {
    build(root)?;
    let reports = root.join(REPORTS);
    fs::create_dir_all(&reports).with_context(|| format!("making {}", reports.display()))?;
    for verb in ["xdp", "live", "ops"] {
        let mut command = Command::new(demo::binary(root, "bench"));
        command
            .arg(verb)
            .arg("--report")
            .arg(reports.join(format!("{verb}.json")));
        if verb == "xdp" {
            command.arg("--plot").arg(root.join("docs/figures/xdp.svg"));
        }
        match (verb, quick) {
            (_, false) => {}
            ("ops", true) => drop(command.args(["--rounds", "3"])),
            (_, true) => drop(command.arg("--quick")),
        }
        shell::run(&mut command)?;
    }
    document(root)
}

fn document(root: &Path) -> Result<ExitCode> {
    build(root)?;
    let mut command = Command::new(demo::binary(root, "bench"));
    command
        .arg("document")
        .arg("--reports")
        .arg(root.join(REPORTS))
        .arg("--document")
        .arg(root.join("docs/performance.md"))
        .current_dir(root);
    shell::run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}

fn build(root: &Path) -> Result<()> {
    shell::cargo(root, &["build", "--release", "--package", "bench"])
}
