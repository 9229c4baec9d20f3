//! `cargo xtask bench`: builds what a benchmark needs, then becomes it.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{build_ebpf, demo, setup, shell, wheels};

/// Where `bench all` leaves its reports, below the workspace's root.
const REPORTS: &str = "target/bench";
/// Where it leaves its plots.
const FIGURES: &str = "docs/figures";
/// The control plane's benchmark: an example of its crate, which builds in a fraction of the time of the others.
const CONTROL: &str = "bench-control";
/// The worker's benchmark, a package of its own: it needs none of the data plane's, and they not it.
const WORKER: &str = "bench-worker";

/// Live traffic between namespaces: the policies compared, and changes under load.
const TRAFFIC: &str = "traffic";

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
    /// What sandboxes and instances cost: first replies beside crun and runc, a burst, turnover, memory, warm requests.
    #[command(disable_help_flag = true)]
    Worker(PassedOn),
    /// All of these one after the other, and docs/performance.md written anew with their figures.
    All {
        /// A third of the rounds and a quarter of the packets, or less: shows that everything works, measures little.
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
        bail!("benchmarks load XDP programs and make sandboxes: run them as root");
    }
    let purpose = match bench {
        Bench::Worker(_) | Bench::All { .. } => setup::Purpose::Containers,
        _ => setup::Purpose::Project,
    };
    setup::run_for(setup::Mode::Install, purpose)?;
    build_ebpf::build_ebpf(root)?;
    let (package, verb, passed_on) = match bench {
        Bench::Worker(passed_on) => return become_worker(root, WORKER, passed_on),
        Bench::All { quick } => return all(root, *quick),
        Bench::Document => return document(root),
        Bench::Control(passed_on) => return control(root, passed_on),
        Bench::Xdp(passed_on) => ("bench", "xdp", passed_on),
        Bench::Live(passed_on) => ("bench", "live", passed_on),
        Bench::Ops(passed_on) => ("bench", "ops", passed_on),
        Bench::Load(passed_on) => (TRAFFIC, "load", passed_on),
        Bench::Loss(passed_on) => (TRAFFIC, "loss", passed_on),
    };
    shell::cargo(root, &["build", "--release", "--package", package])?;
    let mut command = Command::new(demo::binary(root, package));
    command.arg(verb).args(&passed_on.args);
    demo::become_it(command)
}

fn control(root: &Path, passed_on: &PassedOn) -> Result<ExitCode> {
    build_control(root)?;
    let mut command = Command::new(control_binary(root));
    command.args(&passed_on.args).current_dir(root);
    demo::become_it(command)
}

/// Builds and runs the churn: sandboxes under random kills.
pub(crate) fn churn(root: &Path, passed_on: &PassedOn) -> Result<ExitCode> {
    if !shell::is_root() {
        bail!("churn makes sandboxes: run it as root");
    }
    setup::run(setup::Mode::Install)?;
    become_worker(root, "churn", passed_on)
}

/// Builds the package that measures the worker, and becomes one of its binaries.
fn become_worker(root: &Path, binary: &str, passed_on: &PassedOn) -> Result<ExitCode> {
    build_worker(root)?;
    let mut command = Command::new(demo::binary(root, binary));
    // What it writes goes below the folder that it is run in.
    command.args(&passed_on.args).current_dir(root);
    demo::become_it(command)
}

/// Runs what docs/performance.md shows, one after the other, and writes it.
fn all(root: &Path, quick: bool) -> Result<ExitCode> {
    build(root)?;
    shell::cargo(root, &["build", "--release", "--package", TRAFFIC])?;
    build_control(root)?;
    build_worker(root)?;
    let reports = root.join(REPORTS);
    fs::create_dir_all(&reports).with_context(|| format!("making {}", reports.display()))?;
    for (program, args) in steps(root, quick) {
        // The tables of control plane and worker go below the folder that it is run in.
        shell::run(Command::new(program).args(args).current_dir(root))?;
    }
    document(root)
}

/// What is run: each program, and its arguments.
fn steps(root: &Path, quick: bool) -> Vec<(PathBuf, Vec<OsString>)> {
    let step = |name: &str, has_plot: bool| {
        let (program, mut args) = match name {
            "control" => (control_binary(root), Vec::new()),
            "worker" => (demo::binary(root, WORKER), Vec::new()),
            verb @ ("load" | "loss") => (demo::binary(root, TRAFFIC), vec![verb.into()]),
            verb => (demo::binary(root, "bench"), vec![verb.into()]),
        };
        args.push("--report".into());
        args.push(root.join(REPORTS).join(format!("{name}.json")).into());
        if has_plot {
            args.push("--plot".into());
            args.push(root.join(FIGURES).join(format!("{name}.svg")).into());
        }
        let less: &[&str] = match (name, quick) {
            (_, false) => &[],
            ("ops", true) => &["--rounds", "3"],
            // The load at which the policies differ most, so that few requests show it.
            ("load", true) => &["--loads", "70", "--rounds", "2", "--seconds", "2"],
            ("loss", true) => &["--changes", "100", "--replacements", "10"],
            (_, true) => &["--quick"],
        };
        args.extend(less.iter().map(OsString::from));
        (program, args)
    };
    vec![
        step("xdp", true),
        step("live", false),
        step("ops", false),
        step("load", false),
        step("loss", false),
        step("control", true),
        step("worker", true),
    ]
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

fn build_control(root: &Path) -> Result<()> {
    let build = ["build", "--release", "--package", "balancer-userspace"];
    shell::cargo(root, &[&build[..], &["--example", CONTROL]].concat())
}

fn build_worker(root: &Path) -> Result<()> {
    // numpy, which one of its cases imports.
    wheels::fetch(root)?;
    shell::cargo(root, &["build", "--release", "--package", WORKER])
}

fn control_binary(root: &Path) -> PathBuf {
    demo::binary(root, &format!("examples/{CONTROL}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(quick: bool) -> Vec<String> {
        let line = |(program, args): (PathBuf, Vec<OsString>)| {
            let name = program.file_name().map(OsString::from);
            let words: Vec<_> = name.into_iter().chain(args).collect();
            words.join(" ".as_ref()).to_string_lossy().into_owned()
        };
        steps(Path::new("/w"), quick)
            .into_iter()
            .map(line)
            .collect()
    }

    #[test]
    fn one_command_measures_all_that_the_page_shows() {
        assert_eq!(
            lines(false),
            [
                "bench xdp --report /w/target/bench/xdp.json --plot /w/docs/figures/xdp.svg",
                "bench live --report /w/target/bench/live.json",
                "bench ops --report /w/target/bench/ops.json",
                "traffic load --report /w/target/bench/load.json",
                "traffic loss --report /w/target/bench/loss.json",
                "bench-control --report /w/target/bench/control.json --plot /w/docs/figures/control.svg",
                "bench-worker --report /w/target/bench/worker.json --plot /w/docs/figures/worker.svg",
            ]
        );
    }

    #[test]
    fn the_quick_way_is_asked_for_as_each_benchmark_wants_it() {
        let ends: Vec<_> = lines(true)
            .iter()
            .zip(lines(false))
            .map(|(quick, full)| quick.strip_prefix(&full).unwrap().to_owned())
            .collect();
        assert_eq!(
            ends,
            [
                " --quick",
                " --quick",
                " --rounds 3",
                " --loads 70 --rounds 2 --seconds 2",
                " --changes 100 --replacements 10",
                " --quick",
                " --quick",
            ]
        );
    }
}
