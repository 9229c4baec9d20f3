//! The worker's hold on a zygote: a Python that has everything imported, and forks instances of itself into
//! prepared sandboxes. One per runtime; it is started again when it ends.

use std::{
    fmt::Write as _,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::sandbox::{
    CgroupError, Channel, ChannelError, HANDLER_ID, Sandbox, landlock,
    seccomp::{self, Sockets},
};

/// Why an instance could not be forked.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    /// The interpreter could not be started.
    #[error(
        "cannot start the zygote {python}: install Python 3.10 or later, or set sandbox.python"
    )]
    Start {
        /// The interpreter.
        python: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The zygote did not answer.
    #[error("the zygote does not answer")]
    Channel(#[from] ChannelError),
    /// It was stopped with its worker.
    #[error("the zygote was stopped with its worker")]
    Stopped,
    /// The zygote could not fork.
    #[error("the zygote cannot fork into the sandbox: {0}")]
    Fork(String),
    /// The sandbox's cgroup cannot be joined.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The sandbox's namespaces cannot be taken hold of.
    #[error("cannot open the namespaces of a sandbox")]
    Namespaces(#[source] io::Error),
    /// A package zygote names a process that is not where it should be.
    #[error("a package zygote says that it forked process {0}, which is not in the sandbox")]
    Liar(i32),
    /// A socket or pipe could not be made.
    #[error("cannot make the {what} of an instance")]
    Pipe {
        /// Which.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, Deserialize)]
struct Hello {
    #[serde(rename = "ready")]
    _pid: u32,
}

/// What every zygote needs to know to fork.
#[derive(Debug, Clone)]
pub(super) struct Spawner {
    /// The host directory of the Python library, as text: it travels in JSON.
    pub(super) library: String,
    seccomp: [String; 2],
    /// The filter of package zygotes.
    pub(super) cage: [String; 2],
    internet: bool,
    /// The version of Landlock, 0 for none.
    landlock: u32,
}

impl Spawner {
    /// The command to fork an instance; with `namespaces`, the descriptors are those of each.
    pub(super) fn spawn(&self, namespaces: bool) -> Spawn<'_> {
        Spawn {
            library: &self.library,
            handler_id: HANDLER_ID,
            landlock: self.landlock,
            internet: self.internet,
            seccomp: &self.seccomp,
            namespaces,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Spawn<'a> {
    namespaces: bool,
    library: &'a str,
    handler_id: u32,
    landlock: u32,
    internet: bool,
    seccomp: &'a [String; 2],
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Spawned {
    Done { pid: i32 },
    Failed { error: String },
}

/// A process forked into a sandbox. It is locked in and waits for a function once it has sent `Ready`.
#[derive(Debug)]
pub struct Forked {
    /// Its pid here.
    pub pid: i32,
    /// Stands for it; readable when it has ended.
    pub pidfd: OwnedFd,
    /// The protocol's socket.
    pub stream: UnixStream,
    /// What it prints: standard output, standard error.
    pub outputs: [OwnedFd; 2],
}

/// A zygote, running or to be started.
#[derive(Debug)]
pub struct Zygote {
    python: PathBuf,
    spawner: Spawner,
    timeout: Duration,
    running: Mutex<Option<Running>>,
    /// For good: nothing starts it again. Read and written under the lock of `running`.
    stopped: AtomicBool,
    starts: AtomicU64,
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

impl Zygote {
    /// A zygote whose instances may make `sockets`; it runs `python` with the library installed in `library`; started at its first use.
    ///
    /// # Errors
    /// When the system call filter cannot be compiled.
    pub fn new(
        python: PathBuf,
        library: String,
        timeout: Duration,
        sockets: Sockets,
    ) -> Result<Self, seccomp::SeccompError> {
        let landlock = landlock::version();
        if landlock == 0 {
            tracing::warn!("the kernel has no Landlock: sandboxes do without this second wall");
        }
        let spawner = Spawner {
            library,
            seccomp: seccomp::programs(sockets)?.map(|program| hex(&program)),
            cage: seccomp::zygote_programs()?.map(|program| hex(&program)),
            internet: sockets == Sockets::Internet,
            landlock,
        };
        let (running, starts) = (Mutex::new(None), AtomicU64::new(0));
        Ok(Self {
            python,
            spawner,
            timeout,
            running,
            stopped: AtomicBool::new(false),
            starts,
        })
    }

    /// How often it was started beyond the first time.
    pub fn restarts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// The version of Landlock that its instances are behind, 0 for none.
    pub const fn landlock(&self) -> u32 {
        self.spawner.landlock
    }

    /// Forks an instance into `sandbox`. Blocks for some milliseconds; a dead zygote is started again first.
    ///
    /// # Errors
    /// When that fails as well; the sandbox may be half entered and has to be destroyed.
    pub fn fork(&self, sandbox: &Sandbox) -> Result<Forked, ZygoteError> {
        let pipe = |what| move |source| ZygoteError::Pipe { what, source };
        let (stream, theirs) = UnixStream::pair().map_err(pipe("socket"))?;
        let (out, stdout) = std::io::pipe().map_err(pipe("output pipe"))?;
        let (err, stderr) = std::io::pipe().map_err(pipe("output pipe"))?;
        let doors = sandbox.cgroup().doors()?;
        let mut fds = vec![
            sandbox.init(),
            sandbox.user(),
            theirs.as_fd(),
            stdout.as_fd(),
            stderr.as_fd(),
        ];
        fds.extend(doors.iter().map(AsFd::as_fd));
        let (pid, pidfd) = self.tell(&self.spawner.spawn(false), &fds)?;
        Ok(Forked {
            pid,
            pidfd,
            stream,
            outputs: [out.into(), err.into()],
        })
    }

    pub(super) const fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// Has it fork a package zygote; its pid.
    pub(super) fn order<T: Serialize>(
        &self,
        command: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<i32, ZygoteError> {
        self.tell(command, fds).map(|(pid, _)| pid)
    }

    /// Gives it a command; a dead zygote is started again first.
    fn tell<T: Serialize>(
        &self,
        command: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(i32, OwnedFd), ZygoteError> {
        let mut running = self.lock();
        let spawned = match self.ask(&mut running, command, fds) {
            Err(ZygoteError::Channel(error)) => {
                tracing::warn!(%error, "the zygote is gone: starting another");
                *running = None;
                self.ask(&mut running, command, fds)
            }
            other => other,
        };
        if matches!(spawned, Err(ZygoteError::Channel(_))) {
            // Its answer may still come, and would be taken for the next one's.
            *running = None;
        }
        spawned
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
        command: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(i32, OwnedFd), ZygoteError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(ZygoteError::Stopped);
        }
        let zygote = match running {
            Some(zygote) => zygote,
            None => running.insert(self.start()?),
        };
        zygote.channel.send(command, fds)?;
        let (answer, mut fds) = zygote.channel.receive::<Spawned>(Some(self.timeout))?;
        match (answer, fds.pop()) {
            (Spawned::Done { pid }, Some(pidfd)) => Ok((pid, pidfd)),
            (Spawned::Done { .. }, None) => Err(ZygoteError::Fork("no pidfd came".to_owned())),
            (Spawned::Failed { error }, _) => Err(ZygoteError::Fork(error)),
        }
    }

    fn start(&self) -> Result<Running, ZygoteError> {
        let (channel, theirs) = Channel::pair()?;
        // Isolated (-I): no environment, user site or current directory; no site packages (-S): a function
        // brings what it needs beyond the standard library.
        const PROGRAM: &str = "import sys; sys.path.insert(0, sys.argv[1]); from warmpath._zygote import main; main()";
        let child = Command::new(&self.python)
            .args(["-I", "-S", "-c", PROGRAM, &self.spawner.library])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", "/tmp")
            .env("LANG", "C.UTF-8")
            // A zygote has to stay single-threaded to fork, and these start threads when they are imported.
            .envs(
                [
                    "OPENBLAS_NUM_THREADS",
                    "OMP_NUM_THREADS",
                    "MKL_NUM_THREADS",
                    "NUMEXPR_NUM_THREADS",
                ]
                .map(|name| (name, "1")),
            )
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|source| ZygoteError::Start {
                python: self.python.clone(),
                source,
            })?;
        let running = Running { child, channel };
        running.channel.receive::<Hello>(Some(self.timeout))?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        Ok(running)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        // Whoever panicked left at worst a zygote that does not answer, and that is handled.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Filter programs travel in JSON.
fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
            text
        })
}
