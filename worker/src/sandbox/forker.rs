//! The worker's hold on a process of ours that forks others to order: the zygote, and what forks the founders of
//! sandboxes. A fork of a process that has started costs a tenth of starting one.
//!
//! It is started at its first use, says [`Hello`], and answers each order with one [`Answer`]; when it is gone it is
//! started again.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::channel::{Channel, ChannelError};

/// The first words of a forker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Hello {
    /// It waits for orders.
    Ready {
        /// Its pid.
        ready: u32,
    },
    /// It cannot become one.
    Failed {
        /// Why.
        failed: String,
    },
}

/// What a forker answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The child runs; its pidfd comes along.
    Done {
        /// Its pid in the worker's pid namespace.
        pid: i32,
    },
    /// It does not.
    Failed {
        /// Why.
        error: String,
    },
}

/// A process that was forked to order.
#[derive(Debug)]
pub struct Offspring {
    /// Its pid here.
    pub pid: i32,
    /// Stands for it; readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Why nothing was forked.
#[derive(Debug, thiserror::Error)]
pub enum ForkerError {
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It was started, and cannot be what it should.
    #[error("{program} cannot begin: {reason}")]
    Begin {
        /// The program.
        program: String,
        /// What it says.
        reason: String,
    },
    /// It does not answer.
    #[error("the process that forks does not answer")]
    Channel(#[from] ChannelError),
    /// It was stopped with its worker.
    #[error("the process that forks was stopped with its worker")]
    Stopped,
    /// It could not fork.
    #[error("cannot fork: {0}")]
    Fork(String),
}

/// A forker, running or to be started.
#[derive(Debug)]
pub struct Forker<P> {
    program: P,
    timeout: Duration,
    running: Mutex<Option<Running>>,
    /// For good: nothing starts it again. Read and written under the lock of `running`.
    stopped: AtomicBool,
    starts: AtomicU64,
}

/// How a forker is started.
pub trait Program {
    /// The command. Its standard input will be the channel, its standard output empty.
    fn command(&self) -> Command;
}

#[derive(Debug)]
struct Running {
    child: Child,
    channel: Channel,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl<P: Program> Forker<P> {
    /// One that is to answer within `timeout`.
    pub const fn new(program: P, timeout: Duration) -> Self {
        Self {
            program,
            timeout,
            running: Mutex::new(None),
            stopped: AtomicBool::new(false),
            starts: AtomicU64::new(0),
        }
    }

    /// How often it was started beyond the first time.
    pub fn restarts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// Has it fork as `order` says, with copies of `fds`. Blocks for some milliseconds at most; a dead one is started
    /// again first.
    ///
    /// # Errors
    /// When that fails as well, or it cannot fork.
    pub fn fork<T: Serialize>(
        &self,
        order: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Offspring, ForkerError> {
        let mut running = self.lock();
        let forked = match self.ask(&mut running, order, fds) {
            Err(ForkerError::Channel(error)) => {
                tracing::warn!(%error, "a process that forks is gone: starting another");
                *running = None;
                self.ask(&mut running, order, fds)
            }
            other => other,
        };
        if matches!(forked, Err(ForkerError::Channel(_))) {
            // Its answer may still come, and would be taken for the next one's.
            *running = None;
        }
        forked
    }

    /// Ends it, for good.
    pub fn stop(&self) {
        let mut running = self.lock();
        self.stopped.store(true, Ordering::Relaxed);
        *running = None;
    }

    fn ask<T: Serialize>(
        &self,
        running: &mut Option<Running>,
        order: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Offspring, ForkerError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(ForkerError::Stopped);
        }
        let forker = match running {
            Some(forker) => forker,
            None => running.insert(self.start()?),
        };
        forker.channel.send(order, fds)?;
        let (answer, mut fds) = forker.channel.receive::<Answer>(Some(self.timeout))?;
        match (answer, fds.pop()) {
            (Answer::Done { pid }, Some(pidfd)) => Ok(Offspring { pid, pidfd }),
            (Answer::Done { .. }, None) => Err(ForkerError::Fork("no pidfd came".to_owned())),
            (Answer::Failed { error }, _) => Err(ForkerError::Fork(error)),
        }
    }

    fn start(&self) -> Result<Running, ForkerError> {
        let (channel, theirs) = Channel::pair()?;
        let mut command = self.program.command();
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|source| ForkerError::Start {
                program: program.clone(),
                source,
            })?;
        // It holds the other end of the channel, and would go on holding it.
        drop(command);
        let running = Running { child, channel };
        if let Hello::Failed { failed: reason } = running.channel.receive(Some(self.timeout))?.0 {
            return Err(ForkerError::Begin { program, reason });
        }
        self.starts.fetch_add(1, Ordering::Relaxed);
        Ok(running)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        // Whoever panicked left at worst a forker that does not answer, and that is handled.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
