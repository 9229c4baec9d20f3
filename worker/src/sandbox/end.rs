//! How processes of sandboxes end, from outside.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};

use super::orphans::reap_orphans;

/// A killed sandbox that has not ended after so long is given up, and said so.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Kills a process, given by its pidfd.
pub(super) fn kill(process: &OwnedFd) {
    if let Err(error) = pidfd_send_signal(process, Signal::KILL) {
        tracing::trace!(%error, "a process has ended before it was killed");
    }
}

/// Waits for the end of a killed init or founder. `process` is reaped as well, should it have become our child: its
/// zygote may be gone, and a pid namespace does not end before all its processes are reaped.
pub(super) fn end(init: &OwnedFd, process: Option<BorrowedFd<'_>>) -> bool {
    let deadline = Instant::now() + END_TIMEOUT;
    let step = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    while Instant::now() < deadline {
        if let Some(process) = process {
            reap(process);
        }
        if matches!(
            poll(&mut [PollFd::new(init, PollFlags::IN)], Some(&step)),
            Ok(1..)
        ) {
            reap(init.as_fd());
            return true;
        }
        // Only now: it asks for each child of this process, and as a rule nobody waits for an orphan.
        reap_orphans();
    }
    false
}

/// Takes the exit status of an ended child, so that it is gone for good.
fn reap(process: BorrowedFd<'_>) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    if let Err(error) = waitid(WaitId::PidFd(process), options) {
        // As a rule it is the zygote's child, not ours, and reaped there.
        tracing::trace!(%error, "not our child");
    }
}
