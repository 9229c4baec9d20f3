//! Builds the eBPF object: the one place that knows how rustc is made to emit BPF. Which rustc, is found by
//! [`crate::toolchain`].

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::toolchain::{self, EbpfToolchain};

/// The target whose objects little-endian kernels load.
const TARGET: &str = "bpfel-unknown-none";
/// Cargo's target folder for it, below the workspace's root: apart from the host's, whose flags differ.
const TARGET_DIR: &str = "target/ebpf";

/// Always: BTF, which the kernel wants beside the code and `--btf` makes from the debug information, and
/// 32-bit registers and jumps (instruction set v3, Linux 5.1), which save an instruction in three.
const RUSTFLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"];

/// Builds the object of `xdp-balancer` and returns its path.
///
/// # Errors
/// If there is no tool chain for it, or the program does not compile.
pub(crate) fn build_ebpf(root: &Path) -> Result<PathBuf> {
    let toolchain = toolchain::find()?;
    let status = cargo_build(&toolchain, root)?
        .status()
        .context("cannot run cargo to build the eBPF program")?;
    ensure!(
        status.success(),
        "the eBPF program does not build ({status}); the compiler says why above"
    );
    let object = root.join(TARGET_DIR).join(TARGET).join("release/balancer");
    ensure!(
        object.is_file(),
        "cargo built the eBPF program, but there is no {}",
        object.display()
    );
    Ok(object)
}

fn cargo_build(toolchain: &EbpfToolchain, root: &Path) -> Result<Command> {
    let (mut cargo, linker) = match toolchain {
        EbpfToolchain::Nightly { linker } => {
            let mut cargo = rustup_run("cargo");
            cargo.args(["build", "-Z", "build-std=core"]);
            (cargo, linker)
        }
        EbpfToolchain::Debian { rustc, linker } => {
            let mut cargo = Command::new("cargo");
            cargo.arg("build").env("RUSTC", rustc);
            (cargo, linker)
        }
    };
    cargo
        .args([
            "--package",
            "xdp-balancer",
            "--bin",
            "balancer",
            "--bin",
            "bench",
        ])
        .args(["--features", "program"])
        .args(["--release", "--target", TARGET])
        .current_dir(root)
        // aya-ebpf asks for features of the target that are not stable yet.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", root.join(TARGET_DIR))
        // Incremental builds cut the crate into other units: LLVM then makes a program that the verifier refuses.
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        // Cargo splits this one at the unit separator; it overrules RUSTFLAGS and any configuration file.
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"))
        .env("PATH", path_with(linker)?);
    Ok(cargo)
}

fn rustup_run(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    command
}

/// PATH with the folder of `linker` in front: rustc looks for it by name.
fn path_with(linker: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folder = linker.parent().map(Path::to_owned);
    env::join_paths(folder.into_iter().chain(env::split_paths(&path)))
        .context("a folder in PATH has a colon in its name")
}
