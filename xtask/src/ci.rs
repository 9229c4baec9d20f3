//! `cargo xtask ci`: formatting, lints, tests. CI runs this and nothing else.

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use crate::{shell, test};

/// Stops at the first of formatting and lints that fails.
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
    test::run(root, test::Floors::All)
}
