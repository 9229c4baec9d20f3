//! The isolation around one instance: namespaces, root file system, cgroup, seccomp.

/// Why this process cannot make sandboxes. One line: what is missing and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Not root.
    #[error("sandboxes need root: start the worker as root (sudo)")]
    NotRoot,
}

/// Whether this process can make sandboxes here.
///
/// # Errors
/// Says in one line what is missing and how to mend it.
pub fn check() -> Result<(), CheckError> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(CheckError::NotRoot) }
}

/// The hidden verb `warmpath sandbox-init …`: call it first thing in `main`, before any thread starts,
/// with the arguments after the program's name. Returns `None` when they do not ask for it, else the
/// exit code to end with.
#[must_use]
pub fn init_main(args: impl IntoIterator<Item = std::ffi::OsString>) -> Option<std::process::ExitCode> {
    let mut args = args.into_iter();
    (args.next()? == "sandbox-init").then(|| std::process::ExitCode::FAILURE)
}
