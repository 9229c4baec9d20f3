//! One instance: a sandbox with a function loaded, its socket, and what it costs.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Weak},
};

use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use tokio::{io::unix::AsyncFd, sync::mpsc, time::Instant};

use super::{
    Counters,
    budget::Share,
    connection::Connection,
    function::FunctionPool,
    log::{Tail, drain},
    roster::Numbered,
};
use crate::sandbox::Sandbox;

/// What is left of an instance when it is over: to be removed from the host.
#[derive(Debug)]
pub(super) struct Remains {
    /// Dropping it blocks until all is gone.
    pub(super) sandbox: Arc<Sandbox>,
    /// Given back after that.
    pub(super) share: Share,
    /// Whose instance it was.
    pub(super) function: Arc<FunctionPool>,
    /// Whether its function counts it as one of its own: it was loaded.
    pub(super) counted: bool,
}

/// A function loaded in a sandbox. Whoever holds it may use it; dropped, it is ended.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) connection: Connection,
    /// Requests served.
    pub(super) served: u64,
    /// When it became idle.
    pub(super) idle_since: Instant,
    pub(super) tail: Tail,
    /// Whether its function counts it as one of its own.
    pub(super) counted: bool,
    sandbox: Arc<Sandbox>,
    cpu: Option<ClockId>,
    cpu_ns: u64,
    /// Present until the drop.
    remains: Option<(Share, Arc<FunctionPool>)>,
    undertaker: mpsc::UnboundedSender<Remains>,
}

/// What an [`Instance`] is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) connection: Connection,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) pid: i32,
    pub(super) tail: Tail,
    pub(super) share: Share,
    pub(super) function: Arc<FunctionPool>,
    pub(super) undertaker: mpsc::UnboundedSender<Remains>,
}

impl Instance {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            connection: parts.connection,
            served: 0,
            idle_since: Instant::now(),
            tail: parts.tail,
            counted: false,
            sandbox: parts.sandbox,
            cpu: clock_getcpuclockid(Pid::from_raw(parts.pid)).ok(),
            cpu_ns: 0,
            remains: Some((parts.share, parts.function)),
            undertaker: parts.undertaker,
        }
    }

    /// CPU time that the instance's main process has used since this was asked last.
    pub(super) fn cpu_us(&mut self) -> u64 {
        let now =
            self.cpu
                .and_then(|clock| clock_gettime(clock).ok())
                .map_or(self.cpu_ns, |time| {
                    let (seconds, nanoseconds) = (time.tv_sec(), time.tv_nsec());
                    seconds.unsigned_abs() * 1_000_000_000 + nanoseconds.unsigned_abs()
                });
        let used = now.saturating_sub(self.cpu_ns);
        self.cpu_ns = now;
        used / 1_000
    }

    /// Whether the kernel killed something in it for want of memory.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.sandbox.cgroup().oom_kills() > 0
    }
}

impl Numbered for Instance {
    fn number(&self) -> u64 {
        self.sandbox.id()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.sandbox.kill();
        if let Some((share, function)) = self.remains.take() {
            let (sandbox, share) = (Arc::clone(&self.sandbox), share.leave());
            // The undertaker is gone only when the pool is: then dropping here is as good.
            drop(self.undertaker.send(Remains {
                sandbox,
                share,
                function,
                counted: self.counted,
            }));
        }
    }
}

/// Follows an instance to its end: drains what it prints, and ends it when its main process has ended.
pub(super) async fn watch(
    log: OwnedFd,
    tail: Tail,
    sandbox: Weak<Sandbox>,
    function: Weak<FunctionPool>,
    counters: Arc<Counters>,
) {
    let process = sandbox.upgrade().and_then(|sandbox| {
        let process = sandbox.process()?.as_fd().try_clone_to_owned().ok()?;
        Some((sandbox.id(), follow(process)?))
    });
    let ended = async {
        let Some((number, process)) = process else {
            return;
        };
        if process.readable().await.is_err() {
            return;
        }
        if let Some(function) = function.upgrade() {
            // Idle: it leaves the pool. Busy: whoever it serves sees its socket close, even if another
            // process in the sandbox holds that open.
            drop(function.take_idle(number));
        }
        if let Some(sandbox) = sandbox.upgrade() {
            sandbox.kill();
        }
    };
    let drained = async {
        if let Err(error) = drain(log, tail, &counters.log_bytes).await {
            tracing::warn!(%error, "cannot read what a handler prints");
        }
    };
    tokio::join!(ended, drained);
}

#[expect(
    deprecated,
    reason = "its safe replacement is for later; an OwnedFd never changes the file it stands for"
)]
fn follow(process: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    AsyncFd::new(process).ok()
}
