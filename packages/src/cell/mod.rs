//! A cell: where pip and npm run. Unlike a worker's sandbox it needs no root, has no cgroup, and has one way
//! out, a listening socket whose other side is held by whoever made the cell.
//!
//! | mechanism | what runs in it meets |
//! |---|---|
//! | user namespace | one user, on the host an unprivileged one; no capabilities, `no_new_privs` |
//! | mount namespace | `/usr` and what the plan names, read-only; one folder to write to |
//! | network namespace | loopback alone; a proxy listens there, and its other side decides |
//! | pid, ipc, uts namespaces | its own; they end with whoever made the cell |
//! | rlimits | memory, file size, open files |

mod stage;

use std::{
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use worker::sandbox::{Channel, ChannelError};

pub use self::stage::cell_main;

/// The hidden verb.
const VERB: &str = "package-cell";
/// The user on the host that a cell is when root makes it: `nobody`.
const NOBODY: u32 = 65_534;
/// Making a cell takes some tens of milliseconds, on a loaded machine more.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a cell could not be made, or not be used.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// A step on this side failed.
    #[error("cannot {doing} {}", path.display())]
    System {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A step inside failed.
    #[error(
        "cannot make a cell for the package manager: {0}; unprivileged user namespaces have to be allowed here (sysctl user.max_user_namespaces), or run this as root"
    )]
    Inside(String),
    /// What runs in it took too long, and was ended.
    #[error("the package manager took longer than {0:?}")]
    TimedOut(Duration),
    /// The socket to it failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CellError {
    let path = path.to_owned();
    move |source| CellError::System {
        doing,
        path,
        source,
    }
}

/// A file or folder of the host that is seen inside, at the same path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// Where on the host.
    pub host: PathBuf,
    /// Where inside.
    pub inside: PathBuf,
    /// Whether it can be written to.
    pub writable: bool,
}

/// What a cell is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// An empty folder to build the root on.
    pub root: PathBuf,
    /// What is seen inside, besides `/usr`, a few files of `/etc` and devices.
    pub mounts: Vec<Mount>,
}

/// A program to run inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// Its path and arguments.
    pub argv: Vec<String>,
    /// All of its environment.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub dir: PathBuf,
    /// Where what it prints is appended to.
    pub log: PathBuf,
}

/// From inside to the maker.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// The user namespace exists and waits to be given its user.
    Unshared,
    /// It stands; the listening socket comes along.
    Ready,
    /// The program ended with this code.
    Ended(i32),
    Failed(String),
}

/// From the maker to inside, once the user is given.
#[derive(Debug, Serialize, Deserialize)]
struct Mapped {}

/// A cell. Dropped, it ends with everything in it.
#[derive(Debug)]
pub struct Cell {
    founder: Child,
    channel: Channel,
}

impl Drop for Cell {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself; its init follows by its death signal.
        drop(self.founder.kill());
        drop(self.founder.wait());
    }
}

impl Cell {
    /// Makes a cell; `executable` answers to `package-cell` by calling [`cell_main`]. Also the socket that
    /// listens on loopback inside. Blocks. The thread that calls this has to live as long as the cell.
    ///
    /// # Errors
    /// [`CellError`].
    pub fn start(executable: &Path, plan: &Plan) -> Result<(Self, TcpListener), CellError> {
        let (channel, theirs) = Channel::pair()?;
        let founder = Command::new(executable)
            .arg(VERB)
            .env_clear()
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("start", executable))?;
        let cell = Self { founder, channel };
        cell.channel.send(plan, &[])?;
        let Report::Unshared = cell.report(START_TIMEOUT)?.0 else {
            return Err(out_of_turn());
        };
        map_user(cell.founder.id())?;
        cell.channel.send(&Mapped {}, &[])?;
        match cell.report(START_TIMEOUT)? {
            (Report::Ready, Some(listener)) => Ok((cell, listener.into())),
            _ => Err(out_of_turn()),
        }
    }

    /// Runs `program` to its end, in at most `timeout`; its exit code. Blocks.
    ///
    /// # Errors
    /// [`CellError`]; the cell is of no use then.
    pub fn run(&self, program: &Program, timeout: Duration) -> Result<i32, CellError> {
        self.channel.send(program, &[])?;
        match self.report(timeout) {
            Ok((Report::Ended(code), _)) => Ok(code),
            Ok(_) => Err(out_of_turn()),
            Err(CellError::Channel(ChannelError::TimedOut(_))) => Err(CellError::TimedOut(timeout)),
            Err(error) => Err(error),
        }
    }

    fn report(
        &self,
        timeout: Duration,
    ) -> Result<(Report, Option<std::os::fd::OwnedFd>), CellError> {
        let (report, mut fds) = self.channel.receive(Some(timeout))?;
        match report {
            Report::Failed(reason) => Err(CellError::Inside(reason)),
            report => Ok((report, fds.pop())),
        }
    }
}

fn out_of_turn() -> CellError {
    CellError::Inside("a report out of turn".to_owned())
}

/// The user on the host that a cell made by this process is. Folders it writes to have to be that user's.
#[must_use]
pub fn host_user() -> u32 {
    let own = rustix::process::geteuid();
    if own.is_root() { NOBODY } else { own.as_raw() }
}

/// Gives the founder's user namespace its one user.
fn map_user(founder: u32) -> Result<(), CellError> {
    let process = PathBuf::from(format!("/proc/{founder}"));
    let write = |name: &str, text: String| {
        let path = process.join(name);
        std::fs::write(&path, text).map_err(failed("write", &path))
    };
    let (user, group) = match host_user() {
        NOBODY => (NOBODY, NOBODY),
        user => (user, rustix::process::getegid().as_raw()),
    };
    // Without this, only root may map groups.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {user} 1\n"))?;
    write("gid_map", format!("0 {group} 1\n"))
}
