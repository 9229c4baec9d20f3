//! Where a zygote lives: a root of its own, built as those of sandboxes are. The interpreter and the libraries that it
//! maps are then those of the sandboxes that it forks into, and it sees nothing else of the host.
//!
//! It keeps the other namespaces of its worker, and its powers: it has to fork into sandboxes.

use std::{ffi::OsString, os::unix::process::CommandExt, path::Path, process::Command};

use nix::sched::{CloneFlags, unshare};

use super::{
    channel::Channel,
    forker::Hello,
    init::{StageError, VERB, failed},
    rootfs::Root,
};

/// The stage of the hidden verb.
pub(super) const STAGE: &str = "resident";

impl Root {
    /// The command that becomes `program`, by its path inside, in a root like this. `executable` answers to
    /// `sandbox-init`.
    #[must_use]
    pub fn command(&self, executable: &Path, program: &Path) -> Command {
        let mut command = Command::new(executable);
        let plan = serde_json::to_string(self).expect("paths that came out of text go into text");
        command.args([VERB, STAGE, &plan]).arg(program);
        command
    }
}

/// Builds the root that the first argument describes, and becomes the program that the others are. Whoever waits for
/// the program to say [`Hello`] is told why there is none.
pub(super) fn reside(
    channel: &Channel,
    args: impl Iterator<Item = OsString>,
) -> Result<(), StageError> {
    enter(args).inspect_err(|error| {
        let failed = error.to_string();
        // The worker may be gone, and then nobody wants to know.
        drop(channel.send(&Hello::Failed { failed }, &[]));
    })
}

/// Returns only if it fails.
fn enter(mut args: impl Iterator<Item = OsString>) -> Result<(), StageError> {
    let plan = args.next().unwrap_or_default();
    let root: Root = serde_json::from_slice(plan.as_encoded_bytes())?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    root.enter(rustix::process::geteuid().as_raw(), &[])?;
    let program = args.next().unwrap_or_default();
    let error = Command::new(&program).args(args).exec();
    Err(StageError::Program {
        program: program.into(),
        source: error,
    })
}
