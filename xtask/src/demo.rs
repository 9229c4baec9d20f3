//! `cargo xtask demo` and `clean`: build what they need, then become the demo binary.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{build_ebpf, setup, shell};

/// What the demo takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write the figures as JSON to this file, and a drawing beside it [default: target/demo.json].
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leave the platform running afterwards, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// A tenth of the requests: shows that everything works, measures little.
    #[arg(long)]
    quick: bool,
}

/// Builds everything and runs the demo.
pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    if !shell::is_root() {
        bail!("the demo makes network namespaces and loads an XDP program: run it as root");
    }
    setup::run(setup::Mode::Install)?;
    build_ebpf::build_ebpf(root)?;
    build(root)?;
    let mut command = Command::new(binary(root, "demo"));
    command
        .arg("run")
        .arg("--warmpath")
        .arg(binary(root, "warmpath"))
        .arg("--examples")
        .arg(root.join("examples"));
    let report = args
        .report
        .clone()
        .unwrap_or_else(|| root.join("target/demo.json"));
    command.arg("--report").arg(report);
    if args.keep {
        command.arg("--keep");
    }
    if args.quick {
        command.arg("--quick");
    }
    become_it(command)
}

/// Removes what killed runs left behind.
pub(crate) fn clean(root: &Path) -> Result<ExitCode> {
    let demo = binary(root, "demo");
    if !demo.exists() {
        build(root)?;
    }
    let mut command = Command::new(demo);
    command.arg("clean");
    become_it(command)
}

/// Builds the platform's binary and the test bed's, in the tests' profile.
pub(crate) fn build(root: &Path) -> Result<()> {
    let packages = ["--package", "cli", "--package", "tests"];
    let mut args = vec!["build", "--release", "--bins"];
    args.extend(packages);
    shell::cargo(root, &args)
}

/// Where cargo puts the binary `name`.
pub(crate) fn binary(root: &Path, name: &str) -> PathBuf {
    target(root).join("release").join(name)
}

/// Cargo's folder of what can be made again.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Ctrl-C shall reach `command` and nobody else, so it takes our place.
pub(crate) fn become_it(mut command: Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", command.get_program().to_string_lossy()))
}
