//! The cgroups of one worker: `<parent>/<worker>/<sandbox>`, with limits for memory, processes and CPU, and a
//! switch to pause what runs there.
//!
//! | file | what |
//! |---|---|
//! | `layout` | which hierarchies there are: version 1, version 2, both |
//! | `limits` | what a group may use |
//! | `freeze` | stopping a group, letting it go on, killing it |
//! | `files` | reading, writing and removing |
//!
//! Joining a version 1 group costs milliseconds (FACTS §5), so sandboxes join before they are needed and
//! get their limits, which is cheap, when they get a function. Nothing here changes how hierarchies are
//! mounted: `favordynmods` is the operator's decision, because it holds for the whole machine.

mod files;
mod freeze;
mod layout;
mod limits;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cgroups_rs::fs::Cgroup;
use rustix::fs::{FlockOperation, flock};

use super::consumption::Consumption;

pub use self::limits::CgroupLimits;
use self::{
    files::{remove, remove_children, write},
    freeze::Freezer,
    layout::Layout,
};

/// How long the successor of a killed worker waits for its group to be free.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
const LOCK_INTERVAL: Duration = Duration::from_millis(1);

/// Why a cgroup could not be made, limited or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A controller is not mounted or not delegated.
    #[error(
        "the cgroup controller {0:?} is missing: mount it (mount -t cgroup -o {0} none \
         /sys/fs/cgroup/{0}) or enable it in cgroup.subtree_control"
    )]
    Missing(&'static str),
    /// Another worker of this host uses the group.
    #[error("the cgroup {0} belongs to a running worker: give each worker of a host its own name")]
    Taken(PathBuf),
    /// cgroups-rs failed.
    #[error("cannot {doing} cgroup {path}")]
    Library {
        /// What was attempted.
        doing: &'static str,
        /// Its path below the controllers' roots.
        path: String,
        /// What went wrong.
        #[source]
        source: cgroups_rs::fs::error::Error,
    },
    /// A file of the group could not be read or written.
    #[error("cannot {doing} {path}")]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Some process of the group would not stop.
    #[error("the processes of cgroup {0} do not freeze: one of them waits in the kernel")]
    Restless(PathBuf),
    /// Nothing to pause with.
    #[error(
        "this host has nothing to pause instances with: mount cgroup2 or the version 1 freezer, or set \
         pool.pause_after_ms to 0"
    )]
    NoFreezer,
}

/// The parent group of one worker's sandboxes.
#[derive(Debug)]
pub struct WorkerCgroup {
    layout: Layout,
    /// `<parent>/<worker>`.
    path: String,
    /// Held while the worker lives, so that a second one of the same name finds out.
    _lock: OwnedFd,
}

impl WorkerCgroup {
    /// Whether instances can be paused here.
    #[must_use]
    pub fn can_pause(&self) -> bool {
        self.layout.freezer(&self.path).is_some()
    }

    /// Whether this host has the controllers that sandboxes need.
    ///
    /// # Errors
    /// Names the first controller that is missing.
    pub fn check() -> Result<(), CgroupError> {
        Layout::detect().map(|_| ())
    }

    /// Makes `<parent>/<worker>`, and removes what an earlier worker of that name left in it.
    ///
    /// # Errors
    /// When controllers are missing, or a worker of that name is running.
    pub fn claim(parent: &str, worker: &str) -> Result<Self, CgroupError> {
        let layout = Layout::detect()?;
        let path = format!("{parent}/{worker}");
        // The parent goes with the last worker in it, which may be ending just now.
        if layout.create(&path).is_err() {
            layout.create(&path)?;
        }
        let directories = layout.directories(&path);
        let lock = lock(&directories[0])?;
        for directory in &directories {
            remove_children(directory)?;
        }
        Ok(Self {
            layout,
            path,
            _lock: lock,
        })
    }

    /// Makes the group of one sandbox. It has no limits yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sandbox(&self, name: &str) -> Result<SandboxCgroup, CgroupError> {
        let path = format!("{}/{name}", self.path);
        let group = self.layout.create(&path)?;
        let directories = self.layout.directories(&path);
        let freezer = self.layout.freezer(&path);
        Ok(SandboxCgroup {
            group,
            directories,
            cpu_directory: self.layout.cpu_directory(&path),
            freezer,
            is_v2: self.layout.is_v2(),
        })
    }

    /// Removes the group, and the parent when no other worker uses it. Ends what still runs there.
    pub fn remove(&self) {
        let directories = self.layout.directories(&self.path).into_iter();
        for directory in directories.filter(|directory| directory.exists()) {
            if let Err(error) = remove_children(&directory).and_then(|()| remove(&directory)) {
                tracing::warn!(%error, "a cgroup stays behind");
            }
            // Fails, as it should, while another worker has a group there.
            if let Some(parent) = directory.parent() {
                drop(std::fs::remove_dir(parent));
            }
        }
    }
}

impl Drop for WorkerCgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The group of one sandbox.
#[derive(Debug)]
pub struct SandboxCgroup {
    group: Cgroup,
    /// In each hierarchy, that of the memory controller first.
    directories: Vec<PathBuf>,
    /// The one of them that counts CPU time.
    cpu_directory: PathBuf,
    freezer: Option<Freezer>,
    is_v2: bool,
}

impl SandboxCgroup {
    /// Moves the process `pid` into the group; what it starts from then on is in it too.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn join(&self, pid: u32) -> Result<(), CgroupError> {
        for directory in &self.directories {
            write(&directory.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// The processes in it that have not ended.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let listed = self
            .directories
            .first()
            .and_then(|directory| files::read(&directory.join("cgroup.procs")).ok());
        let listed = listed.unwrap_or_default();
        listed
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// The files into which a process writes `0` to join the group by itself.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn doors(&self) -> Result<Vec<File>, CgroupError> {
        self.directories
            .iter()
            .map(|directory| {
                let path = directory.join("cgroup.procs");
                File::options()
                    .write(true)
                    .open(&path)
                    .map_err(|source| CgroupError::File {
                        doing: "open",
                        path,
                        source,
                    })
            })
            .collect()
    }

    /// Sets the limits. Swap is denied: a handler above its memory limit is killed, not slowed.
    ///
    /// # Errors
    /// When the kernel refuses one of them.
    pub fn limit(&self, limits: CgroupLimits) -> Result<(), CgroupError> {
        limits.set(&self.group, &self.directories[0], self.is_v2)
    }

    /// Processes of the group that the kernel killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        limits::oom_kills(&self.directories[0], self.is_v2)
    }

    /// Memory that the group uses now.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        limits::memory_bytes(&self.directories[0], self.is_v2)
    }

    /// What counts its use of CPU and memory.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn consumption(&self) -> Result<Consumption, CgroupError> {
        let opened = if self.is_v2 {
            Consumption::v2(&self.cpu_directory)
        } else {
            Consumption::v1(&self.cpu_directory, &self.directories[0])
        };
        opened.map_err(|source| CgroupError::File {
            doing: "open the CPU counter of",
            path: self.cpu_directory.clone(),
            source,
        })
    }

    /// Stops every process of the group where it stands. Blocks for some milliseconds with version 1.
    ///
    /// # Errors
    /// When this host has nothing for that, or a process cannot be stopped; all of them run then.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.freezer
            .as_ref()
            .ok_or(CgroupError::NoFreezer)?
            .freeze()
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.freezer.as_ref().ok_or(CgroupError::NoFreezer)?.thaw()
    }

    /// Kills every process of the group at once, paused or not, where the kernel can (version 2); elsewhere
    /// lets paused ones take the signals that were sent to them.
    pub fn kill(&self) {
        if let Some(freezer) = &self.freezer
            && let Err(error) = freezer.kill()
        {
            let group = freezer.directory().display();
            tracing::debug!(%group, %error, "its processes have to be killed one by one");
        }
    }

    /// Removes the group; its processes must have ended.
    ///
    /// # Errors
    /// When one is still alive after a while.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.directories
            .iter()
            .try_for_each(|directory| remove(directory))
    }
}

fn lock(directory: &Path) -> Result<OwnedFd, CgroupError> {
    let file = File::open(directory).map_err(|source| CgroupError::File {
        doing: "open",
        path: directory.to_owned(),
        source,
    })?;
    // A lock of the open file, which the kernel lets go when the worker ends, however it ends; but not before what it was
    // just starting has become another program, for that has the open file until then.
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file.into()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(LOCK_INTERVAL),
            Err(_) => return Err(CgroupError::Taken(directory.to_owned())),
        }
    }
}
