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
    /// It cannot be told anything.
    #[error("the process that forks cannot be reached")]
    Channel(#[from] ChannelError),
    /// It ended over an order.
    #[error("the process that forks ended over an order, or does not answer it")]
    Lost(#[source] ChannelError),
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

fn offspring(answer: Answer, mut fds: Vec<OwnedFd>) -> Result<Offspring, ForkerError> {
    match (answer, fds.pop()) {
        (Answer::Done { pid }, Some(pidfd)) => Ok(Offspring { pid, pidfd }),
        (Answer::Done { .. }, None) => Err(ForkerError::Fork("no pidfd came".to_owned())),
        (Answer::Failed { error }, _) => Err(ForkerError::Fork(error)),
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
    /// [`ForkerError::Lost`] when it ends, or is silent, over this order: then a child may or may not have been born with
    /// `fds`, and neither they nor what they lead to may be used again. Another order finds another forker.
    pub fn fork<T: Serialize>(
        &self,
        order: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Offspring, ForkerError> {
        let mut running = self.lock();
        match self.tell(&mut running, order, fds) {
            // Nobody has heard the order.
            Err(ForkerError::Channel(error)) => {
                tracing::warn!(%error, "a process that forks is gone: starting another");
                *running = None;
                self.tell(&mut running, order, fds)?;
            }
            told => told?,
        }
        let Some(forker) = running.as_ref() else {
            return Err(ForkerError::Stopped);
        };
        match forker.channel.receive::<Answer>(Some(self.timeout)) {
            Ok((answer, fds)) => offspring(answer, fds),
            Err(error) => {
                // Its answer may still come, and would be taken for the next one's.
                *running = None;
                Err(ForkerError::Lost(error))
            }
        }
    }

    /// Ends it, for good.
    pub fn stop(&self) {
        let mut running = self.lock();
        self.stopped.store(true, Ordering::Relaxed);
        *running = None;
    }

    fn tell<T: Serialize>(
        &self,
        running: &mut Option<Running>,
        order: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ForkerError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(ForkerError::Stopped);
        }
        let forker = match running {
            Some(forker) => forker,
            None => running.insert(self.start()?),
        };
        Ok(forker.channel.send(order, fds)?)
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

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::fd::AsFd as _};

    use super::*;

    /// Answers as the script says.
    struct Script(&'static str);

    impl Program for Script {
        fn command(&self) -> Command {
            let mut command = Command::new("/usr/bin/python3");
            command.args(["-I", "-c", self.0]);
            command
        }
    }

    /// Says hello, hears one order, writes it down in the file that comes along, and ends.
    const MORTAL: &str = "\
import os, socket
worker = socket.socket(fileno=0)
worker.send(b'{\"ready\": 1}')
_, fds, _, _ = socket.recv_fds(worker, 4096, 1)
os.write(fds[0], b'x')
";

    #[test]
    fn an_order_is_never_given_twice() {
        let forker = Forker::new(Script(MORTAL), Duration::from_secs(20));
        for _ in 0..2 {
            let (mut born, fd) = io::pipe().unwrap();
            let lost = forker.fork(&"fork", &[fd.as_fd()]);
            assert!(matches!(lost, Err(ForkerError::Lost(_))), "{lost:?}");
            drop(fd);
            let mut children = String::new();
            born.read_to_string(&mut children).unwrap();
            assert_eq!(children, "x");
        }
        assert_eq!(forker.restarts(), 1);
        forker.stop();
        let stopped = forker.fork(&"fork", &[]);
        assert!(matches!(stopped, Err(ForkerError::Stopped)), "{stopped:?}");
    }

    #[test]
    fn one_that_cannot_be_started_is_named() {
        struct Nowhere;
        impl Program for Nowhere {
            fn command(&self) -> Command {
                Command::new("/nonexistent/python")
            }
        }
        let forker = Forker::new(Nowhere, Duration::from_secs(20));
        let error = forker.fork(&"fork", &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot start /nonexistent/python");
    }
}
