//! fork(2), which no crate offers as a safe call.
#![expect(
    unsafe_code,
    reason = "what a child of fork(2) may do depends on the other threads of its parent"
)]

use std::io;

use nix::unistd::{ForkResult, Pid};

/// Where a fork went on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Forked {
    /// Here, with this child.
    Parent(Pid),
    /// In the child.
    Child,
}

/// Forks this process, which must have one thread.
///
/// # Errors
/// When it has more, or the kernel refuses.
pub(super) fn fork() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        let message = format!("a process with {threads} threads cannot be forked");
        return Err(io::Error::other(message));
    }
    // SAFETY: A child may do as it likes if no other thread can have held a lock when it was made
    // (signal-safety(7)), and there is none: it was counted, and nobody but this thread could have started one since.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent(child)),
        ForkResult::Child => Ok(Forked::Child),
    }
}
