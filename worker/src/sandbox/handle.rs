//! The worker's hold on a sandbox: it is given code, paused, and ended without trace.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use store::Egress;

use super::{
    cgroup::{CgroupLimits, SandboxCgroup},
    channel::Channel,
    consumption::Consumption,
    end::{end, kill},
    error::{SandboxError, failed, out_of_turn},
    init::{MountHandler, Report},
    network::Link,
    rootfs,
    uids::Uid,
};

/// The user that a handler is in its own user namespace.
pub const HANDLER_ID: u32 = 1_000;
/// A sandbox: an init in namespaces of its own. What else runs in it was forked there by a zygote.
#[derive(Debug)]
pub struct Sandbox {
    pub(super) id: u64,
    pub(super) init: OwnedFd,
    /// Its own for as long as it is not reaped, and that is when this is dropped.
    pub(super) init_pid: u32,
    pub(super) user: File,
    pub(super) channel: Channel,
    pub(super) cgroup: SandboxCgroup,
    pub(super) consumption: Consumption,
    pub(super) process: OnceLock<OwnedFd>,
    pub(super) is_paused: AtomicBool,
    /// Goes after all that could use it.
    pub(super) link: Option<Link>,
    /// Free for another sandbox when this one is gone.
    pub(super) uid: Uid,
    pub(super) timeout: Duration,
}

/// What a sandbox is given once its function is known.
#[derive(Debug, Clone, Copy)]
pub struct Assignment<'a> {
    /// The function's code, mounted at `/handler`.
    pub code: &'a Path,
    /// Package layers: the name of each below `/layers`, and its directory on the host.
    pub layers: &'a [(&'a str, &'a Path)],
    /// What it may use.
    pub limits: CgroupLimits,
    /// Size of `/tmp`.
    pub tmp_mb: u32,
    /// What it may connect to, if it has a network.
    pub egress: &'a [Egress],
}

impl Sandbox {
    /// Its number, never used again by this worker.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Its init, whose pidfd stands for all its namespaces but the handler's user namespace.
    #[must_use]
    pub fn init(&self) -> BorrowedFd<'_> {
        self.init.as_fd()
    }

    /// Its namespaces, each by a descriptor of its own: for a process that may not enter them by the
    /// init's pidfd, which takes a right to look into the init.
    ///
    /// # Errors
    /// When its init has ended.
    pub fn namespaces(&self) -> io::Result<Namespaces> {
        let open = |name| File::open(format!("/proc/{}/ns/{name}", self.init_pid));
        Ok(Namespaces {
            pid: open("pid")?,
            others: [
                open("mnt")?,
                open("ipc")?,
                open("uts")?,
                open("net")?,
                open("cgroup")?,
            ],
        })
    }

    /// Whether process `pid` lives in it: sees its mounts.
    #[must_use]
    pub fn holds(&self, pid: i32) -> bool {
        let mounts =
            |pid: &dyn std::fmt::Display| std::fs::read_link(format!("/proc/{pid}/ns/mnt"));
        matches!((mounts(&self.init_pid), mounts(&pid)), (Ok(ours), Ok(theirs)) if ours == theirs)
    }

    /// The user on the host that what runs in it is.
    #[must_use]
    pub const fn host_user(&self) -> u32 {
        self.uid.host_id()
    }

    /// The handler's user namespace.
    #[must_use]
    pub fn user(&self) -> BorrowedFd<'_> {
        self.user.as_fd()
    }

    /// Its cgroup.
    #[must_use]
    pub const fn cgroup(&self) -> &SandboxCgroup {
        &self.cgroup
    }

    /// What counts its use of CPU and memory.
    #[must_use]
    pub const fn consumption(&self) -> &Consumption {
        &self.consumption
    }

    /// Gives it a function: the limits, the size of `/tmp`, the code at `/handler`, the layers below
    /// `/layers`, the rules of its network. Blocks for about a millisecond. To be called once.
    ///
    /// # Errors
    /// When the kernel refuses; the sandbox is of no use then.
    pub fn assign(&self, given: &Assignment<'_>) -> Result<(), SandboxError> {
        self.cgroup.limit(given.limits)?;
        let detach = |place: &Path| rootfs::detached(place).map_err(failed("take hold of", place));
        let mut mounts = vec![detach(given.code)?];
        for (_, place) in given.layers {
            mounts.push(detach(place)?);
        }
        let message = MountHandler {
            tmp_mb: given.tmp_mb,
            layers: given
                .layers
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect(),
        };
        let mounts: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
        self.channel.send(&message, &mounts)?;
        if let Some(link) = &self.link {
            link.allow(given.egress)?;
        }
        match self.channel.receive(Some(self.timeout))?.0 {
            Report::Mounted => Ok(()),
            Report::Failed(what) => Err(SandboxError::Init(what)),
            Report::Founded(_) | Report::Ready => Err(out_of_turn()),
        }
    }

    /// A zygote has forked `process` (a pidfd) into it. To be called once.
    pub fn occupy(&self, process: OwnedFd) {
        if self.process.set(process).is_err() {
            tracing::error!(
                sandbox = self.id,
                "two processes were forked into a sandbox"
            );
        }
    }

    /// The process that a zygote forked into it.
    #[must_use]
    pub fn process(&self) -> Option<BorrowedFd<'_>> {
        self.process.get().map(AsFd::as_fd)
    }

    /// Stops everything in it where it stands. Blocks for some milliseconds on hosts with version 1 alone.
    ///
    /// # Errors
    /// When this host cannot do that, or a process cannot be stopped; everything runs on then.
    pub fn pause(&self) -> Result<(), SandboxError> {
        self.is_paused.store(true, Ordering::Release);
        self.cgroup.freeze().inspect_err(|_| {
            self.is_paused.store(false, Ordering::Release);
        })?;
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When its cgroup is gone.
    pub fn resume(&self) -> Result<(), SandboxError> {
        self.cgroup.thaw()?;
        self.is_paused.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// Whether its init and the process forked into it run.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut ends = vec![PollFd::new(&self.init, PollFlags::IN)];
        ends.extend(
            self.process
                .get()
                .map(|process| PollFd::new(process, PollFlags::IN)),
        );
        // The descriptor of a process that has ended is readable.
        matches!(poll(&mut ends, Some(&Timespec::default())), Ok(0))
    }

    /// Kills everything in the sandbox: with its pid 1 the kernel kills all others.
    pub fn kill(&self) {
        kill(&self.init);
        if self.is_paused() {
            // What version 1 has frozen would take the signal only when thawed.
            self.cgroup.kill();
        }
    }

    /// Kills everything in the sandbox, and blocks until nothing runs in it any more; its cgroup can still be
    /// read then.
    pub fn end(&self) {
        self.kill();
        self.cgroup.kill();
        if !end(&self.init, self.process()) {
            tracing::error!(sandbox = self.id, "a killed sandbox does not end");
        }
    }
}

impl Drop for Sandbox {
    /// Kills everything in the sandbox and removes what is left of it. Blocks until all is gone.
    fn drop(&mut self) {
        self.end();
        if let Err(error) = self.cgroup.remove() {
            tracing::error!(sandbox = self.id, %error, "a sandbox leaves its cgroup");
        }
    }
}

/// What a process has to enter to be in a sandbox, but for the handler's user namespace.
#[derive(Debug)]
pub struct Namespaces {
    /// Its pids, which only a child is born into.
    pub pid: File,
    /// Mounts, ipc, host name, network, cgroups: the order of `_lockdown.NAMESPACES`.
    pub others: [File; 5],
}
