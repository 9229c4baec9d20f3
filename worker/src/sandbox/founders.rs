//! What forks the founders of sandboxes: this executable, started once by the worker, with one thread and next to no
//! memory of its own. Starting the executable anew for each sandbox, twice, was a quarter of the CPU time of a burst of
//! cold starts, most of it in the dynamic linker and in CPUID, which traps in a virtual machine.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::{
    channel::{Channel, ChannelError},
    clone::{Forked, fork},
    end::{end, kill},
    forker::{Answer, Forker, ForkerError, Hello, Offspring, Program},
    init::{self, StageError, VERB, reap, wait_for, watch_children},
};

/// The worker's order: a founder, whose end of the channel comes along.
#[derive(Debug, Serialize, Deserialize)]
struct Found {}

/// This executable.
#[derive(Debug)]
pub struct Executable(pub PathBuf);

impl Program for Executable {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(VERB).env_clear().stderr(Stdio::null());
        command
    }
}

/// The worker's hold on it.
pub type Founders = Forker<Executable>;

/// A founder. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Founder {
    pid: i32,
    process: OwnedFd,
}

impl Founder {
    /// Forks one, which waits for its plan at the other end of the channel.
    pub(super) fn fork(founders: &Founders) -> Result<(Self, Channel), ForkerError> {
        let (channel, theirs) = Channel::pair()?;
        let Offspring { pid, pidfd } = founders.fork(&Found {}, &[theirs.as_fd()])?;
        let process = pidfd;
        Ok((Self { pid, process }, channel))
    }

    /// Its pid here.
    pub(super) const fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Stands for it; readable when it has ended.
    pub(super) fn process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Ends it, and blocks until it has.
    pub(super) fn end(&self) {
        kill(&self.process);
        if !end(&self.process, None) {
            tracing::error!(pid = self.pid, "a killed founder does not end");
        }
    }
}

impl Drop for Founder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Forks founders to order, until the worker is gone. Returns in each founder as well, when that has ended.
pub(super) fn serve(worker: Channel) -> Result<(), StageError> {
    let children = watch_children()?;
    worker.send(
        &Hello::Ready {
            ready: std::process::id(),
        },
        &[],
    )?;
    loop {
        let [order, child] = wait_for([worker.as_fd(), children.as_fd()])?;
        if child {
            reap(&children);
        }
        if !order {
            continue;
        }
        let channel = match worker.receive::<Found>(None) {
            Ok((Found {}, fds)) => fds.into_iter().next().map(Channel::from),
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let forked = match channel {
            Some(channel) => match fork() {
                Ok(Forked::Child) => {
                    // The worker's hang-up is to reach the forker alone, and its children are not this one's.
                    drop((worker, children));
                    return init::report(&channel, init::found(&channel));
                }
                Ok(Forked::Parent(pid)) => take_hold(pid.as_raw()),
                Err(error) => Err(error),
            },
            None => Err(io::Error::other("an order came without a channel")),
        };
        match forked {
            Ok((pid, process)) => worker.send(&Answer::Done { pid }, &[process.as_fd()])?,
            Err(error) => {
                let error = error.to_string();
                worker.send(&Answer::Failed { error }, &[])?;
            }
        }
    }
}

/// Only this process reaps its child, so that the pid is still that child's.
fn take_hold(pid: i32) -> io::Result<(i32, OwnedFd)> {
    let child = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok((pid, pidfd_open(child, PidfdFlags::empty())?))
}
