//! A zygote with packages imported, in a sandbox of its own.
//!
//! What it imported is code of others, so that nothing it says is believed: a process that it claims to have
//! forked counts once it is seen in the sandbox that was meant ([`PackageZygote::confirm`]). What it may do
//! is written in `sdk/python/warmpath/_lockdown.py` (`cage`): it shares the host's pids and keeps two
//! capabilities, without which it could not fork into a sandbox; a filter closes what they are good for.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

use super::zygote::{Spawner, Zygote, ZygoteError};
use crate::sandbox::{Answer, Channel, Sandbox, SandboxError};

/// A zygote that does not fork within this time is ended: it takes three milliseconds.
const FORK_TIMEOUT: Duration = Duration::from_secs(2);

/// What a package zygote is told when it begins.
#[derive(Debug, Serialize)]
pub(super) struct Grow<'a> {
    /// The host user to become; `None` in a child of a package zygote.
    pub(super) uid: Option<u32>,
    pub(super) seccomp: &'a [String; 2],
    pub(super) layers: &'a [String],
    pub(super) imports: Vec<&'a str>,
}

/// What a package zygote says once it has imported.
#[derive(Debug, Deserialize)]
struct Warmed {
    imported: Vec<String>,
}

/// What a package zygote grows from.
#[derive(Debug, Clone, Copy)]
pub enum Parent<'a> {
    /// The first zygote.
    First(&'a Zygote),
    /// Another package zygote.
    Package(&'a PackageZygote),
}

/// Why a package zygote could not be had.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// It could not be forked, or ended while it imported.
    #[error("a package zygote cannot be grown")]
    Zygote(#[from] ZygoteError),
    /// Its sandbox could not be given its layers.
    #[error("a package zygote gets no layers")]
    Sandbox(#[from] SandboxError),
    /// It runs threads, which no fork takes along.
    #[error("importing {imports} starts threads ({threads} of them), and a zygote has to fork")]
    Threads {
        /// What was imported.
        imports: String,
        /// Threads that it runs.
        threads: u64,
    },
    /// Nothing that was asked for could be imported.
    #[error("nothing of {imports} can be imported ahead of a function")]
    Nothing {
        /// What was asked for.
        imports: String,
    },
}

/// A process that a package zygote says it forked; to be confirmed.
#[derive(Debug)]
pub struct Claimed {
    /// Its pid, as it says.
    pub pid: i32,
    /// The protocol's socket.
    pub stream: UnixStream,
    /// What it prints: standard output, standard error.
    pub outputs: [OwnedFd; 2],
}

/// A zygote with packages imported. Dropped, it ends.
#[derive(Debug)]
pub struct PackageZygote {
    channel: Mutex<Channel>,
    pid: i32,
    spawner: Spawner,
    forks: AtomicU64,
    /// Its namespaces, its cgroup, and the hold on its process.
    sandbox: Sandbox,
}

impl Drop for PackageZygote {
    fn drop(&mut self) {
        let Some(process) = self.sandbox.process() else {
            return;
        };
        if let Err(error) = pidfd_send_signal(process, Signal::KILL) {
            tracing::trace!(%error, "a package zygote has ended before it was killed");
        }
        // It is not in the pid namespace of its sandbox, and does not end with that; a zombie is reaped there.
        let wait = Timespec {
            tv_sec: 2,
            tv_nsec: 0,
        };
        if !matches!(
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&wait)),
            Ok(1..)
        ) {
            tracing::error!(pid = self.pid, "a killed package zygote does not end");
        }
    }
}

impl PackageZygote {
    /// Grows a zygote from `parent` in `sandbox`, in which `layers` are mounted, and has it import `imports`.
    /// Blocks for as long as that takes, at most for `timeout`.
    ///
    /// # Errors
    /// [`GrowError`]; the sandbox is gone then.
    pub fn grow(
        parent: Parent<'_>,
        sandbox: Sandbox,
        layers: &[String],
        imports: &[&str],
        timeout: Duration,
    ) -> Result<Self, GrowError> {
        let spawner = match parent {
            Parent::First(zygote) => zygote.spawner().clone(),
            Parent::Package(zygote) => zygote.spawner.clone(),
        };
        let (channel, theirs) = Channel::pair().map_err(ZygoteError::from)?;
        let theirs = theirs.into_fd();
        let order = Grow {
            uid: matches!(parent, Parent::First(_)).then(|| sandbox.host_user()),
            seccomp: &spawner.cage,
            layers,
            imports: imports.to_vec(),
        };
        let namespaces = sandbox.namespaces().map_err(ZygoteError::Namespaces)?;
        let doors = sandbox.cgroup().doors().map_err(ZygoteError::from)?;
        let mut fds: Vec<_> = namespaces.others.iter().map(AsFd::as_fd).collect();
        fds.push(theirs.as_fd());
        fds.extend(doors.iter().map(AsFd::as_fd));
        let pid = match parent {
            Parent::First(zygote) => zygote.order(&order, &fds)?,
            Parent::Package(zygote) => zygote.ask(&order, &fds)?,
        };
        drop(theirs);
        let warmed = channel.receive::<Warmed>(Some(timeout));
        sandbox.occupy(confirm(pid, &sandbox)?);
        // From here on it ends when it is dropped.
        let zygote = Self {
            channel: Mutex::new(channel),
            pid,
            spawner,
            forks: AtomicU64::new(0),
            sandbox,
        };
        let (warmed, _) = warmed.map_err(ZygoteError::from)?;
        let imports = || imports.join(", ");
        if warmed.imported.is_empty() {
            return Err(GrowError::Nothing { imports: imports() });
        }
        match zygote.threads() {
            1 => Ok(zygote),
            threads => Err(GrowError::Threads {
                imports: imports(),
                threads,
            }),
        }
    }

    /// Has it fork an instance into `sandbox`. Blocks for some milliseconds. What it says has to be
    /// confirmed, once the instance is locked in.
    ///
    /// # Errors
    /// When it does not; it is of no use then.
    pub fn fork(&self, sandbox: &Sandbox) -> Result<Claimed, ZygoteError> {
        let pipe = |what| move |source| ZygoteError::Pipe { what, source };
        let (stream, theirs) = UnixStream::pair().map_err(pipe("socket"))?;
        let (out, stdout) = std::io::pipe().map_err(pipe("output pipe"))?;
        let (err, stderr) = std::io::pipe().map_err(pipe("output pipe"))?;
        let namespaces = sandbox.namespaces().map_err(ZygoteError::Namespaces)?;
        let doors = sandbox.cgroup().doors()?;
        let mut fds = vec![namespaces.pid.as_fd()];
        fds.extend(namespaces.others.iter().map(AsFd::as_fd));
        fds.extend([
            sandbox.user(),
            theirs.as_fd(),
            stdout.as_fd(),
            stderr.as_fd(),
        ]);
        fds.extend(doors.iter().map(AsFd::as_fd));
        let pid = self.ask(&self.spawner.spawn(true), &fds)?;
        self.forks.fetch_add(1, Ordering::Relaxed);
        Ok(Claimed {
            pid,
            stream,
            outputs: [out.into(), err.into()],
        })
    }

    /// The process `claimed`, if it is in `sandbox`.
    ///
    /// # Errors
    /// When it is not: the zygote lies.
    pub fn confirm(claimed: &Claimed, sandbox: &Sandbox) -> Result<OwnedFd, ZygoteError> {
        confirm(claimed.pid, sandbox)
    }

    /// Its number, that of its sandbox.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.sandbox.id()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.sandbox.is_alive()
    }

    /// Instances that it has forked.
    #[must_use]
    pub fn forks(&self) -> u64 {
        self.forks.load(Ordering::Relaxed)
    }

    /// Megabytes that are its own: its share of what it shares is counted (PSS).
    #[must_use]
    pub fn memory_mb(&self) -> u64 {
        let path = PathBuf::from(format!("/proc/{}/smaps_rollup", self.pid));
        let rollup = std::fs::read_to_string(path).unwrap_or_default();
        number_of(&rollup, "Pss:").unwrap_or(0).div_ceil(1_024)
    }

    fn threads(&self) -> u64 {
        let path = PathBuf::from(format!("/proc/{}/status", self.pid));
        let status = std::fs::read_to_string(path).unwrap_or_default();
        number_of(&status, "Threads:").unwrap_or(0)
    }

    fn ask<T: Serialize>(
        &self,
        command: &T,
        fds: &[std::os::fd::BorrowedFd<'_>],
    ) -> Result<i32, ZygoteError> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.send(command, fds)?;
        match channel.receive::<Answer>(Some(FORK_TIMEOUT))?.0 {
            Answer::Done { pid } => Ok(pid),
            Answer::Failed { error } => Err(ZygoteError::Fork(error)),
        }
    }
}

/// Takes hold of process `pid`, and makes sure that it lives in `sandbox`.
fn confirm(pid: i32, sandbox: &Sandbox) -> Result<OwnedFd, ZygoteError> {
    let process = Pid::from_raw(pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    match process {
        // Taken hold of before it is looked at, so that another with its pid would not pass for it.
        Ok(process) if sandbox.holds(pid) => Ok(process),
        _ => Err(ZygoteError::Liar(pid)),
    }
}

/// The number behind `key` in a file of `/proc`.
fn number_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_keys() {
        let text = "Rss:   900 kB\nPss:    1500 kB\nThreads:\t3\n";
        assert_eq!(number_of(text, "Pss:"), Some(1_500));
        assert_eq!(number_of(text, "Threads:"), Some(3));
        assert_eq!(number_of(text, "Swap:"), None);
    }
}
