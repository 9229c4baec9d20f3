//! Sandboxes from the worker's side: made ahead of need, given code, ended without trace.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
    },
};
use store::Egress;

use super::{
    cgroup::{CgroupError, CgroupLimits, SandboxCgroup, WorkerCgroup},
    channel::{Channel, ChannelError},
    consumption::Consumption,
    forker::ForkerError,
    founders::{Founder, Founders},
    init::{Build, MountHandler, Plan, Report},
    network::{Link, Network, NetworkError},
    orphans::reap_orphans,
    rootfs::{self, Root},
};

/// The user that a handler is in its own user namespace.
pub const HANDLER_ID: u32 = 1_000;
/// A killed sandbox that has not ended after so long is given up, and said so.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a sandbox could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Its cgroup could not be made.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The socket to its init failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// It has no founder.
    #[error("cannot begin a sandbox")]
    Founder(#[from] ForkerError),
    /// Its init gave up.
    #[error("the sandbox's init says: {0}")]
    Init(String),
    /// A step on the worker's side failed.
    #[error("cannot {doing} {path}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It gets no network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// All handler user ids are taken.
    #[error("all {0} user ids for handlers are in use: raise sandbox.uid_count")]
    NoUid(u32),
}

fn failed<E: Into<io::Error>>(
    doing: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> SandboxError {
    let path = path.as_ref().to_owned();
    move |error| SandboxError::System {
        doing,
        path,
        source: error.into(),
    }
}

/// Makes sandboxes, for one worker.
#[derive(Debug)]
pub struct SandboxMaker {
    /// What forks those that begin a sandbox.
    pub founders: Arc<Founders>,
    /// The root that each has.
    pub root: Root,
    /// The cgroup that holds those of the sandboxes.
    pub cgroup: Arc<WorkerCgroup>,
    /// The host user ids of handlers.
    pub uids: Arc<Uids>,
    /// What gives sandboxes a network, if these are to have one.
    pub network: Option<Arc<Network>>,
    /// How long init may take for a step.
    pub timeout: Duration,
}

impl SandboxMaker {
    /// Makes one sandbox: namespaces, root file system and cgroup, with an init in it and nothing else.
    /// Blocks for some tens of milliseconds.
    ///
    /// # Errors
    /// When any step fails; nothing of it is left then.
    pub fn make(&self, id: u64) -> Result<Sandbox, SandboxError> {
        let uid = self
            .uids
            .take()
            .ok_or_else(|| SandboxError::NoUid(self.uids.count()))?;
        let (founder, channel) = Founder::fork(&self.founders)?;
        let founder_pid = founder.pid();
        // Declared behind the channel, and dropped before it: an init that nobody knows of yet is there until then.
        let mut made = Unfinished {
            founder,
            init: None,
            link: None,
            init_pid: 0,
            cgroup: None,
        };
        let cgroup = made.cgroup.insert(self.cgroup.sandbox(&id.to_string())?);
        let consumption = cgroup.consumption()?;
        cgroup.join(founder_pid)?;
        let plan = Plan {
            root: self.root.clone(),
            handler_uid: uid.host_id(),
            init_uid: self.uids.init_id(),
            dns: self
                .network
                .iter()
                .flat_map(|it| it.dns().to_vec())
                .collect(),
        };
        channel.send(&plan, &[])?;
        let user = self.found(&channel, uid.host_id(), &mut made)?;
        let (Some(init), Some(cgroup)) = (made.init.take(), made.cgroup.take()) else {
            return Err(SandboxError::Init("no report of its start".to_owned()));
        };
        // The founder goes with `made`; the init stays, as a child of this subreaper.
        Ok(Sandbox {
            id,
            init,
            init_pid: made.init_pid,
            user,
            channel,
            cgroup,
            consumption,
            process: OnceLock::new(),
            is_paused: AtomicBool::new(false),
            link: made.link.take(),
            uid,
            timeout: self.timeout,
        })
    }

    /// Follows founder and init until the sandbox stands; its user namespace.
    fn found(
        &self,
        channel: &Channel,
        uid: u32,
        made: &mut Unfinished,
    ) -> Result<File, SandboxError> {
        let report = |processes: &[BorrowedFd<'_>]| match channel
            .receive_from::<Report>(processes, self.timeout)?
        {
            Report::Failed(what) => Err(SandboxError::Init(what)),
            report => Ok(report),
        };
        let Report::Founded(init_pid) = report(&[made.founder.process()])? else {
            return Err(out_of_turn());
        };
        let init = made.init.insert(open_process(init_pid)?).try_clone();
        let init = init.map_err(failed("keep hold of", "a sandbox's init"))?;
        if let Some(network) = &self.network {
            made.link = Some(network.attach(init_pid)?);
        }
        made.init_pid = init_pid;
        let user = map_user(made.founder.pid(), uid)?;
        channel.send(&Build {}, &[])?;
        match report(&[made.founder.process(), init.as_fd()])? {
            Report::Ready => Ok(user),
            _ => Err(out_of_turn()),
        }
    }
}

fn out_of_turn() -> SandboxError {
    SandboxError::Init("a report out of turn".to_owned())
}

/// What exists of a sandbox in the making; dropped, it goes.
struct Unfinished {
    founder: Founder,
    init: Option<OwnedFd>,
    /// Goes after the namespace that it leads into.
    link: Option<Link>,
    init_pid: u32,
    cgroup: Option<SandboxCgroup>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(init) = self.init.take() {
            kill(&init);
            end(&init, None);
        }
        let Some(cgroup) = self.cgroup.take() else {
            return;
        };
        self.founder.end();
        // An init of which the founder could not tell any more; it is this subreaper's child now.
        for init in cgroup.processes() {
            if let Ok(init) = open_process(init) {
                kill(&init);
                end(&init, None);
            }
        }
        if let Err(error) = cgroup.remove() {
            tracing::warn!(%error, "a sandbox that failed to start leaves its cgroup");
        }
    }
}

fn open_process(pid: u32) -> Result<OwnedFd, SandboxError> {
    let path = format!("process {pid}");
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(failed("take hold of", path))
}

/// Makes `uid` the only user of the founder's user namespace, and takes hold of that.
fn map_user(founder_pid: u32, uid: u32) -> Result<File, SandboxError> {
    let process = PathBuf::from(format!("/proc/{founder_pid}"));
    let map = format!("{HANDLER_ID} {uid} 1\n");
    for file in ["uid_map", "gid_map"] {
        let path = process.join(file);
        std::fs::write(&path, &map).map_err(failed("write", &path))?;
    }
    let path = process.join("ns/user");
    File::open(&path).map_err(failed("open", &path))
}

/// A sandbox: an init in namespaces of its own. What else runs in it was forked there by a zygote.
#[derive(Debug)]
pub struct Sandbox {
    id: u64,
    init: OwnedFd,
    /// Its own for as long as it is not reaped, and that is when this is dropped.
    init_pid: u32,
    user: File,
    channel: Channel,
    cgroup: SandboxCgroup,
    consumption: Consumption,
    process: OnceLock<OwnedFd>,
    is_paused: AtomicBool,
    /// Goes after all that could use it.
    link: Option<Link>,
    /// Free for another sandbox when this one is gone.
    uid: Uid,
    timeout: Duration,
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
        reap_orphans();
        if matches!(
            poll(&mut [PollFd::new(init, PollFlags::IN)], Some(&step)),
            Ok(1..)
        ) {
            reap(init.as_fd());
            return true;
        }
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

/// The host user ids that handlers run as: each live sandbox has its own, so that even outside their
/// namespaces two handlers would be strangers to one another.
#[derive(Debug)]
pub struct Uids {
    first: u32,
    count: u32,
    free: Mutex<Vec<u32>>,
}

impl Uids {
    /// `count` ids from `first` on; one more, before them, is for the inits.
    #[must_use]
    pub fn new(first: u32, count: u32) -> Arc<Self> {
        let free = Mutex::new(
            (0..count)
                .rev()
                .map(|n| first.saturating_add(1 + n))
                .collect(),
        );
        Arc::new(Self { first, count, free })
    }

    const fn count(&self) -> u32 {
        self.count
    }

    const fn init_id(&self) -> u32 {
        self.first
    }

    fn take(self: &Arc<Self>) -> Option<Uid> {
        let id = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()?;
        Some(Uid {
            id,
            all: Arc::clone(self),
        })
    }
}

/// One user id, in use.
#[derive(Debug)]
struct Uid {
    id: u32,
    all: Arc<Uids>,
}

impl Uid {
    const fn host_id(&self) -> u32 {
        self.id
    }
}

impl Drop for Uid {
    fn drop(&mut self) {
        self.all
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sandboxes_share_a_user_id() {
        let uids = Uids::new(100, 2);
        let (a, b) = (uids.take().unwrap(), uids.take().unwrap());
        assert_eq!((a.host_id(), b.host_id(), uids.init_id()), (101, 102, 100));
        assert!(uids.take().is_none());
        drop(a);
        assert_eq!(uids.take().unwrap().host_id(), 101);
        drop(b);
    }
}
