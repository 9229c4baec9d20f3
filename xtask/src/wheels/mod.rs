//! `cargo xtask wheels`: the real packages that the platform floor's functions require, fetched once.
//!
//! The test of OpenLambda's functions serves them as an index of its own, in a namespace without a way out. So
//! they are fetched here, by pip and from the index that this machine's pip is configured to; `wheels.lock` pins
//! each by version and SHA-256. Nothing else fetches them, and nothing is fetched when they lie there already.

mod lock;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use self::lock::Lock;
use crate::{demo, shell};

/// The Python that functions run with, and whose pip resolves what they require.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// The copy of the lock that says of what lies beside it: all of this is here.
const DONE: &str = "wheels.lock";

/// What `cargo xtask wheels` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// First resolve anew what the example functions require, for every Python and processor, and pin that.
    #[arg(long)]
    update_lock: bool,
}

/// Fetches the wheels, after renewing the lock if that is asked for.
///
/// # Errors
/// As [`fetch`]; or the index has no wheels of what the examples require.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    if args.update_lock {
        let path = lock_path(root);
        let text = Lock::resolve(root)?.text();
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        shell::say(&format!("wheels: renewed {}", path.display()));
    }
    fetch(root)
}

/// Sees to it that `target/wheels` holds every wheel of the lock that this Python takes.
///
/// # Errors
/// pip is missing, the index cannot be reached, or it has other files than were pinned.
pub(crate) fn fetch(root: &Path) -> Result<()> {
    let pinned = fs::read_to_string(lock_path(root)).context("reading the lock of the wheels")?;
    let folder = demo::target(root).join("wheels");
    if fs::read_to_string(folder.join(DONE)).is_ok_and(|done| done == pinned) {
        return Ok(());
    }
    // Built beside, and moved when it is whole: a run that is killed leaves nothing that looks done.
    let fresh = folder.with_extension("new");
    remove(&fresh)?;
    fs::create_dir_all(&fresh).with_context(|| format!("creating {}", fresh.display()))?;
    shell::say("wheels: fetching what tests/platform/wheels.lock pins");
    let mut pip = Command::new(PYTHON);
    pip.args(["-m", "pip", "download", "--quiet", "--require-hashes"])
        .args(["--no-deps", "--only-binary", ":all:"])
        .arg("--dest")
        .arg(&fresh)
        .arg("--requirement")
        .arg(lock_path(root))
        .stdout(std::io::stderr());
    shell::run(&mut pip).context(
        "fetching the wheels of tests/platform/wheels.lock: is the index of `pip config list` reachable? If it no \
         longer has them, or has none for this Python, `cargo xtask wheels --update-lock` pins others",
    )?;
    fs::write(fresh.join(DONE), &pinned).context("noting that all wheels are there")?;
    remove(&folder)?;
    fs::rename(&fresh, &folder).with_context(|| format!("moving to {}", folder.display()))
}

fn lock_path(root: &Path) -> PathBuf {
    root.join("tests/platform/wheels.lock")
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("removing {}: {error}", folder.display())
        }
        _ => Ok(()),
    }
}
