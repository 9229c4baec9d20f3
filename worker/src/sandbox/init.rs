//! `sandbox-init`: the process that becomes pid 1 of a sandbox.
//!
//! It is forked, by way of a founder, from one process that runs for as long as the worker ([`super::founders`]). Two
//! stages, because only a child of the process that asked for a new pid namespace is in it, and only a process with
//! one thread may enter a user namespace:
//! 1. *founder*: makes the namespaces, forks the init into them, makes the user namespace for the handler,
//!    and waits to be killed, once the worker has hold of both.
//! 2. *init*: pid 1. Builds the root file system, mounts the function's code when told, gives up every
//!    privilege, and from then on only reaps orphans. It ends when the worker does, and everything in the
//!    sandbox ends with it.
//!
//! The same verb makes where a zygote lives ([`super::resident`]).
//!
//! The user namespace is a child of the host's, but mounts, network and pids belong to the host's: even a
//! handler that won back all capabilities in its own namespace would have none over the sandbox.

use std::{
    ffi::OsString,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    process::ExitCode,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::set_parent_process_death_signal,
    thread::{
        CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    channel::{Channel, ChannelError},
    clone::{Forked, fork},
    founders, resident,
    rootfs::{self, Root},
};

/// The hidden verb.
pub(super) const VERB: &str = "sandbox-init";

/// What the founder and the init are to make; from the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The root that it has.
    pub(super) root: Root,
    /// The host user that the handler will be.
    pub(super) handler_uid: u32,
    /// The host user that the init itself will be.
    pub(super) init_uid: u32,
    /// Name servers, if it gets a network.
    pub(super) dns: Vec<Ipv4Addr>,
}

/// From the worker to the init: the founder is done, build the root. Not before, because pivoting moves
/// the founder's root as well, and a process that looks chrooted may not make a user namespace.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Build {}

/// From the worker to the init: the descriptors that come along are the function's code and its layers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MountHandler {
    /// Size of `/tmp`.
    pub(super) tmp_mb: u32,
    /// The names of the layers.
    pub(super) layers: Vec<String>,
}

/// From founder and init to the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The namespaces exist; the init has this pid in the worker's pid namespace.
    Founded(u32),
    /// The root file system is ready.
    Ready,
    /// The function's code is mounted, all privileges are gone.
    Mounted,
    /// It cannot be done.
    Failed(String),
}

/// The hidden verb `warmpath sandbox-init …`: call it first thing in `main`, before any thread starts,
/// with the arguments after the program's name. Returns `None` when they do not ask for it, else the
/// exit code to end with.
#[must_use]
pub fn init_main(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter();
    if args.next()? != VERB {
        return None;
    }
    let begin = |channel: Channel| match args.next() {
        Some(stage) if stage == resident::STAGE => resident::reside(&channel, args),
        _ => founders::serve(channel),
    };
    let served = Channel::stdin().map_err(StageError::from).and_then(begin);
    Some(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// Has the worker told why a stage gave up.
pub(super) fn report(channel: &Channel, done: Result<(), StageError>) -> Result<(), StageError> {
    done.inspect_err(|error| {
        // The worker may be gone, and then nobody wants to know.
        drop(channel.send(&Report::Failed(error.to_string()), &[]));
    })
}

/// Why a stage gave up; its text goes to the worker.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    #[error("cannot {doing}: {source}")]
    System {
        doing: &'static str,
        source: io::Error,
    },
    #[error("cannot run {program}: {source}")]
    Program { program: PathBuf, source: io::Error },
    #[error("the plan of a root is malformed: {0}")]
    Plan(#[from] serde_json::Error),
    #[error(transparent)]
    Root(#[from] rootfs::RootError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

pub(super) fn failed<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> StageError {
    move |error| StageError::System {
        doing,
        source: error.into(),
    }
}

/// Stage 1, in the host's namespaces. Returns in the init as well, when that has ended.
pub(super) fn found(channel: &Channel) -> Result<(), StageError> {
    // The worker sends the plan when this process is in the sandbox's cgroup, and so will be its children.
    let (plan, _) = channel.receive::<Plan>(None)?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(namespaces).map_err(failed("make the sandbox's namespaces"))?;
    let init_pid = match fork().map_err(failed("fork the sandbox's init"))? {
        Forked::Child => return init(channel, &plan),
        Forked::Parent(pid) => pid.as_raw().unsigned_abs(),
    };
    unshare(CloneFlags::CLONE_NEWUSER).map_err(failed("make a user namespace"))?;
    channel.send(&Report::Founded(init_pid), &[])?;
    wait_for_hangup(channel)
}

/// Returns when the worker is gone; before that, the worker kills this process.
fn wait_for_hangup(channel: &Channel) -> Result<(), StageError> {
    loop {
        // Only errors and hang-ups: what can be read is for the init.
        match poll(&mut [PollFd::new(channel, PollFlags::empty())], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("wait for the worker")(error)),
        }
    }
}

/// Stage 2, as pid 1.
fn init(channel: &Channel, plan: &Plan) -> Result<(), StageError> {
    let children = watch_children()?;
    channel.receive::<Build>(None)?;
    plan.root.enter(plan.handler_uid, &plan.dns)?;
    nix::unistd::sethostname("sandbox").map_err(failed("set the host name"))?;
    channel.send(&Report::Ready, &[])?;
    loop {
        let [worker, child] = wait_for([channel.as_fd(), children.as_fd()])?;
        if child {
            reap(&children);
        }
        if worker && !serve(channel, plan)? {
            return Ok(());
        }
    }
}

/// What is readable when a child has ended: no signal handler ever runs.
pub(super) fn watch_children() -> Result<SignalFd, StageError> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().map_err(failed("block SIGCHLD"))?;
    SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(failed("watch for SIGCHLD"))
}

/// Waits until one of `fds` has something to read, or is closed at its other end: which.
pub(super) fn wait_for<const N: usize>(fds: [BorrowedFd<'_>; N]) -> Result<[bool; N], StageError> {
    let mut wanted = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut wanted, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(failed("wait")(error)),
    }
    Ok(wanted.map(|fd| !fd.revents().is_empty()))
}

/// Handles what the worker says; false when it is gone.
fn serve(channel: &Channel, plan: &Plan) -> Result<bool, StageError> {
    let (message, fds) = match channel.receive::<MountHandler>(None) {
        Ok(received) => received,
        Err(ChannelError::Closed) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if let Some((code, layers)) = fds.split_first() {
        rootfs::mount_handler(code.as_fd(), message.tmp_mb)?;
        rootfs::mount_layers(message.layers.iter().map(String::as_str).zip(layers))?;
        drop_privileges(plan.init_uid)?;
        // A paused sandbox cannot see that its worker is gone; the kernel can. Behind the change of user, which
        // would undo it; the founder, whose end would count as well, has gone before.
        set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(failed("ask to be killed with the worker"))?;
        channel.send(&Report::Mounted, &[])?;
    }
    Ok(true)
}

/// Takes the exit status of all children that have ended.
pub(super) fn reap(ended: &SignalFd) {
    // One signal may stand for several children: the descriptor is only emptied.
    while let Ok(Some(_)) = ended.read_signal() {}
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// The init needs nothing any more: it only waits.
fn drop_privileges(uid: u32) -> Result<(), StageError> {
    for number in 0..u64::BITS {
        // The kernel knows fewer; the first unknown one ends the list.
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    let (user, group) = (
        rustix::fs::Uid::from_raw(uid),
        rustix::fs::Gid::from_raw(uid),
    );
    set_thread_groups(&[]).map_err(failed("leave all groups"))?;
    set_thread_res_gid(group, group, group).map_err(failed("change group"))?;
    set_thread_res_uid(user, user, user).map_err(failed("change user"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    set_capabilities(None, sets).map_err(failed("drop all capabilities"))?;
    set_no_new_privs(true).map_err(failed("set no_new_privs"))
}
