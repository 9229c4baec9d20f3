//! `cargo xtask ci`: formatting, lints, coverage, tests. CI runs this and nothing else.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{coverage, setup, shell, test};

/// Stops at the first of formatting, lints and coverage that fails.
pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    shell::cargo(root, &["fmt", "--all", "--check"])?;
    // In the tests' profile, so that build scripts and macros are compiled once.
    shell::cargo(
        root,
        &[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--features",
            test::PRIVILEGED_FEATURES,
            "--",
            "--deny",
            "warnings",
        ],
    )?;
    // What setup installs for the linker of BPF programs brings the tools that read the counts.
    setup::run(setup::Mode::Install)?;
    let coverage = coverage::run(root, &coverage::Args::default())?;
    if coverage != ExitCode::SUCCESS {
        return Ok(coverage);
    }
    // Last, because it ends with what CI reads.
    test::run(root, test::Floors::All)
}
