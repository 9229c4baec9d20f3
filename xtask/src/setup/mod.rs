//! `cargo xtask setup`: look, say what will be done, do it, look again.

mod facts;
mod plan;

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

pub(crate) use facts::{Facts, Purpose};
use plan::{BPF_LINKER, Plan, Step, linker_command_line, plan};

use crate::{shell, toolchain::EbpfToolchain};

/// Installing one thing can show that another is needed, but not more often than this.
const ROUNDS_MAX: usize = 3;

/// Whether to change the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Install what is missing.
    Install,
    /// Only say it.
    Check,
}

/// Brings the machine to where the project builds and runs.
///
/// # Errors
/// When something is missing that cannot (or, with [`Mode::Check`], shall not) be installed.
pub(crate) fn run(mode: Mode) -> Result<()> {
    run_for(mode, Purpose::Project)
}

/// The same for another purpose.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_for(mode: Mode, purpose: Purpose) -> Result<()> {
    for _round in 0..ROUNDS_MAX {
        match plan(&Facts::probe(purpose)) {
            Plan::Ready(toolchain) => {
                shell::say(&format!("setup: complete; {}", describe(&toolchain)));
                return Ok(());
            }
            Plan::Tell(lines) => bail!("these are missing:\n  - {}", lines.join("\n  - ")),
            Plan::Install(steps) => {
                shell::say("setup: this machine still needs:");
                for step in &steps {
                    shell::say(&format!("  - {}", announce(step)));
                }
                if mode == Mode::Check {
                    bail!("setup is not complete; `cargo xtask setup` does the above");
                }
                for step in &steps {
                    shell::say(&format!("setup: {}", announce(step)));
                    perform(step)?;
                }
            }
        }
    }
    bail!(
        "setup did what it knows, and something is still missing; `cargo xtask setup --check` says what"
    )
}

fn describe(toolchain: &EbpfToolchain) -> String {
    match toolchain {
        EbpfToolchain::Nightly { linker } => {
            format!(
                "the XDP program is built by rustup's nightly and {}",
                linker.display()
            )
        }
        EbpfToolchain::Debian { rustc, linker } => format!(
            "the XDP program is built by {} and {}",
            rustc.display(),
            linker.display()
        ),
    }
}

fn announce(step: &Step) -> String {
    match step {
        Step::Packages(names) => format!("apt-get install {}", names.join(" ")),
        Step::Nightly => {
            "rustup toolchain install nightly --profile minimal --component rust-src".to_owned()
        }
        Step::Linker { llvm } => format!("{} (about a minute)", linker_command_line(*llvm)),
    }
}

fn perform(step: &Step) -> Result<()> {
    match step {
        Step::Packages(names) => {
            apt(&["update", "--quiet"])?;
            let mut args = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
            args.extend(names.iter().map(String::as_str));
            apt(&args)
        }
        Step::Nightly => shell::run(Command::new("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ])),
        Step::Linker { llvm } => install_linker(*llvm),
    }
}

fn apt(args: &[&str]) -> Result<()> {
    shell::run(
        Command::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Standard output is for what the command itself has to say.
            .stdout(std::io::stderr()),
    )
}

fn install_linker(llvm: u32) -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let path = std::env::var("PATH").unwrap_or_default();
    let feature = format!("llvm-{llvm}");
    // Outside the workspace: its lockfile and toolchain file are no business of the linker.
    let mut command = shell::cargo_command(Path::new("/"));
    command
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--force"])
        .args(["--no-default-features", "--features", &feature])
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", format!("{prefix}/bin:{path}"))
        .env_remove("CARGO_TARGET_DIR");
    shell::run(&mut command)
}
