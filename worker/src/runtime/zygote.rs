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
    process::Command,
    time::Duration,
};

use serde::Serialize;

use super::LIBRARY_DIR;
use crate::sandbox::{
    CgroupError, ChannelError, Forker, ForkerError, HANDLER_ID, Offspring, Program, Root, Sandbox,
    landlock,
    seccomp::{self, Sockets},
};

/// Why an instance could not be forked.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    /// The first zygote does not do what it should.
    #[error(
        "the zygote: it needs Python 3.10 or later in its root file system, or set as sandbox.python"
    )]
    First(#[from] ForkerError),
    /// A package zygote did not answer.
    #[error("a package zygote does not answer")]
    Channel(#[from] ChannelError),
    /// A package zygote could not fork.
    #[error("a package zygote cannot fork into the sandbox: {0}")]
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

/// What every zygote needs to know to fork.
#[derive(Debug, Clone)]
pub(super) struct Spawner {
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
    handler_id: u32,
    landlock: u32,
    internet: bool,
    seccomp: &'a [String; 2],
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
    forker: Forker<Python>,
    spawner: Spawner,
}

/// The interpreter that becomes the zygote.
#[derive(Debug)]
struct Python {
    /// Builds the root.
    executable: PathBuf,
    root: Root,
    /// By its path in there.
    interpreter: PathBuf,
}

impl Program for Python {
    fn command(&self) -> Command {
        let program = format!(
            "import sys; sys.path.insert(0, {LIBRARY_DIR:?}); from warmpath._zygote import main; main()"
        );
        let mut command = self.root.command(&self.executable, &self.interpreter);
        command
            // Isolated (-I): no environment, user site or current directory; no site packages (-S): a function
            // brings what it needs beyond the standard library.
            .args(["-I", "-S", "-c", &program])
            // Nobody reads it: it shows in `ps` whose process this is, and so in those that are forked from it.
            .arg(&self.root.library)
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
            );
        command
    }
}

impl Zygote {
    /// A zygote whose instances may make `sockets`, started at its first use: `executable` builds a root like those of
    /// its sandboxes and becomes `python` in there.
    ///
    /// # Errors
    /// When the system call filter cannot be compiled.
    pub fn new(
        executable: PathBuf,
        root: Root,
        python: PathBuf,
        timeout: Duration,
        sockets: Sockets,
    ) -> Result<Self, seccomp::SeccompError> {
        let landlock = landlock::version();
        if landlock == 0 {
            tracing::warn!("the kernel has no Landlock: sandboxes do without this second wall");
        }
        let spawner = Spawner {
            seccomp: seccomp::programs(sockets)?.map(|program| hex(&program)),
            cage: seccomp::zygote_programs()?.map(|program| hex(&program)),
            internet: sockets == Sockets::Internet,
            landlock,
        };
        let program = Python {
            executable,
            root,
            interpreter: python,
        };
        Ok(Self {
            forker: Forker::new(program, timeout),
            spawner,
        })
    }

    /// How often it was started beyond the first time.
    pub fn restarts(&self) -> u64 {
        self.forker.restarts()
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
        let Offspring { pid, pidfd } = self.forker.fork(&self.spawner.spawn(false), &fds)?;
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
        Ok(self.forker.fork(command, fds)?.pid)
    }

    /// Ends it, for good.
    pub fn stop(&self) {
        self.forker.stop();
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
