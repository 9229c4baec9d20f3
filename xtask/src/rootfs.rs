//! `cargo xtask rootfs`: the root file system that tests run sandboxes in, built once below `target/rootfs`.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{demo, shell};

/// What `cargo xtask rootfs` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// First pin the packages that Debian has today, for every processor, in worker/rootfs.
    #[arg(long)]
    update_lock: bool,
}

/// Builds it, after renewing the lists if that is asked for.
///
/// # Errors
/// As [`build`]; or apt cannot say what Debian has.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    demo::build(root)?;
    if args.update_lock {
        for architecture in ["amd64", "arm64"] {
            let list = root
                .join("worker/rootfs")
                .join(format!("{architecture}.list"));
            warmpath(
                root,
                &["renew", "--architecture", architecture, "--list"],
                &list,
            )?;
        }
        // The lists are part of the binary.
        demo::build(root)?;
    }
    build(root)
}

/// Sees to it that the root of this binary's list is there; `warmpath` is built.
///
/// # Errors
/// A package cannot be fetched, or is not what the list pins.
pub(crate) fn build(root: &Path) -> Result<()> {
    warmpath(root, &["build", "--dir"], &demo::target(root).join("rootfs"))
        .context("building a root file system for sandboxes (`cargo xtask rootfs --update-lock` pins what Debian has today)")
}

fn warmpath(root: &Path, args: &[&str], path: &Path) -> Result<()> {
    let mut command = Command::new(demo::binary(root, "warmpath"));
    command.args(["worker", "rootfs"]).args(args).arg(path);
    shell::run(command.stdout(std::io::stderr()))
}
