//! The cgroups of one worker: `<parent>/<worker>/<sandbox>`, with limits for memory, processes and CPU.
//!
//! Both layouts are served: version 1 controllers, each its own hierarchy (also where an empty version 2
//! tree lies beside them), and version 2 alone. The cgroups-rs crate makes groups and sets limits; files
//! it has no (working) call for, such as the counter of kills for want of memory, are read here.
//!
//! Joining a version 1 group costs milliseconds (FACTS §5), so sandboxes join before they are needed and
//! get their limits, which is cheap, when they get a function.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cgroups_rs::fs::{
    Cgroup, Hierarchy, MaxValue,
    cpu::CpuController,
    hierarchies::{V1, V2, is_cgroup2_unified_mode},
    memory::MemController,
    pid::PidController,
};
use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};

use super::consumption::Consumption;

/// The controllers that a sandbox needs, by their kernel names. Version 1 counts CPU time in one of its own.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];
/// What version 2 has them in.
const CONTROLLERS_V2: [&str; 3] = ["memory", "pids", "cpu"];
/// The scheduler's accounting period for the CPU limit.
const CPU_PERIOD_US: u64 = 100_000;
/// Where version 2 is mounted when it is alone.
const V2_ROOT: &str = "/sys/fs/cgroup";
/// A group stays busy for a moment after its last process ended.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

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
}

/// What one instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Memory, the page cache and `/tmp` included.
    pub memory_bytes: u64,
    /// Processes and threads, the sandbox's init included.
    pub pids: u32,
    /// CPU in per cent of one core.
    pub cpu_percent: u32,
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

#[derive(Debug, Clone)]
enum Layout {
    V1 { hierarchy: V1, roots: Vec<PathBuf> },
    V2 { root: PathBuf },
}

impl Layout {
    fn detect() -> Result<Self, CgroupError> {
        if is_cgroup2_unified_mode() {
            let root = PathBuf::from(V2_ROOT);
            let available = read(&root.join("cgroup.controllers"))?;
            let missing = CONTROLLERS_V2
                .into_iter()
                .find(|name| !available.split_whitespace().any(|c| c == *name));
            return missing.map_or(Ok(Self::V2 { root }), |name| {
                Err(CgroupError::Missing(name))
            });
        }
        let hierarchy = V1::new();
        let kinds = [
            cgroups_rs::fs::Controllers::Mem,
            cgroups_rs::fs::Controllers::Pids,
            cgroups_rs::fs::Controllers::Cpu,
            cgroups_rs::fs::Controllers::CpuAcct,
        ];
        let mut roots = Vec::with_capacity(kinds.len());
        for (kind, name) in kinds.into_iter().zip(CONTROLLERS) {
            let (point, _) = hierarchy
                .get_mount_point(kind)
                .ok_or(CgroupError::Missing(name))?;
            // As a rule `cpu` and `cpuacct` are mounted together.
            if !roots.contains(&point) {
                roots.push(point);
            }
        }
        Ok(Self::V1 { hierarchy, roots })
    }

    fn hierarchy(&self) -> Box<dyn Hierarchy> {
        match self {
            Self::V1 { hierarchy, .. } => Box::new(hierarchy.clone()),
            Self::V2 { .. } => Box::new(V2::new()),
        }
    }

    /// The directories that make up the group `path`, the one with the memory controller first, the one that
    /// counts CPU time last.
    fn directories(&self, path: &str) -> Vec<PathBuf> {
        match self {
            Self::V1 { roots, .. } => roots.iter().map(|root| root.join(path)).collect(),
            Self::V2 { root } => vec![root.join(path)],
        }
    }
}

impl WorkerCgroup {
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
        if create(&layout, &path).is_err() {
            create(&layout, &path)?;
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
        let group = create(&self.layout, &path)?;
        let directories = self.layout.directories(&path);
        let is_v2 = matches!(self.layout, Layout::V2 { .. });
        Ok(SandboxCgroup {
            group,
            path,
            directories,
            is_v2,
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
    path: String,
    directories: Vec<PathBuf>,
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
        let failed = |doing| {
            move |source| CgroupError::Library {
                doing,
                path: self.path.clone(),
                source,
            }
        };
        let memory: &MemController = self
            .group
            .controller_of()
            .ok_or(CgroupError::Missing("memory"))?;
        let bytes = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
        memory
            .set_limit(bytes)
            .map_err(failed("limit the memory of"))?;
        let swap = &self.directories[0];
        if self.is_v2 {
            write_if_present(&swap.join("memory.swap.max"), "0")?;
        } else {
            write_if_present(
                &swap.join("memory.memsw.limit_in_bytes"),
                &bytes.to_string(),
            )?;
        }
        let pids: &PidController = self
            .group
            .controller_of()
            .ok_or(CgroupError::Missing("pids"))?;
        pids.set_pid_max(MaxValue::Value(i64::from(limits.pids)))
            .map_err(failed("limit the processes of"))?;
        let cpu: &CpuController = self
            .group
            .controller_of()
            .ok_or(CgroupError::Missing("cpu"))?;
        let quota = CPU_PERIOD_US * u64::from(limits.cpu_percent) / 100;
        cpu.set_cfs_quota_and_period(i64::try_from(quota).ok(), Some(CPU_PERIOD_US))
            .map_err(failed("limit the CPU time of"))
    }

    /// Processes of the group that the kernel killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let file = if self.is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        read(&self.directories[0].join(file)).map_or(0, |text| oom_kills_in(&text))
    }

    /// Memory that the group uses now.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        let file = if self.is_v2 {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        read(&self.directories[0].join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// What counts its use of CPU and memory.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn consumption(&self) -> Result<Consumption, CgroupError> {
        let (first, last) = (
            &self.directories[0],
            &self.directories[self.directories.len() - 1],
        );
        let opened = if self.is_v2 {
            Consumption::v2(first)
        } else {
            Consumption::v1(last, first)
        };
        opened.map_err(|source| CgroupError::File {
            doing: "open the CPU counter of",
            path: last.clone(),
            source,
        })
    }

    /// Kills every process of the group at once, where the kernel can (version 2).
    pub fn kill(&self) {
        if self.is_v2
            && let Err(error) = self.group.kill()
        {
            tracing::debug!(group = self.path, %error, "cgroup.kill is of no use here");
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

/// The `oom_kill N` line of `memory.events` (version 2) or `memory.oom_control` (version 1, Linux 4.13).
fn oom_kills_in(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

fn create(layout: &Layout, path: &str) -> Result<Cgroup, CgroupError> {
    let names: &[&str] = match layout {
        Layout::V1 { .. } => &CONTROLLERS,
        Layout::V2 { .. } => &CONTROLLERS_V2,
    };
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Cgroup::new_with_specified_controllers(layout.hierarchy(), path, Some(names)).map_err(
        |source| CgroupError::Library {
            doing: "make",
            path: path.to_owned(),
            source,
        },
    )
}

fn lock(directory: &Path) -> Result<OwnedFd, CgroupError> {
    let file = File::open(directory).map_err(|source| CgroupError::File {
        doing: "open",
        path: directory.to_owned(),
        source,
    })?;
    // A lock of the open file, which the kernel lets go when the worker ends, however it ends.
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(_) => Err(CgroupError::Taken(directory.to_owned())),
    }
}

/// Removes the groups in `directory`, after ending what runs in them: what a killed worker left.
fn remove_children(directory: &Path) -> Result<(), CgroupError> {
    let entries = std::fs::read_dir(directory).map_err(|source| CgroupError::File {
        doing: "list",
        path: directory.to_owned(),
        source,
    })?;
    for child in entries.flatten().filter(|entry| entry.path().is_dir()) {
        let processes = read(&child.path().join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid)
                && let Err(error) = rustix::process::kill_process(pid, Signal::KILL)
            {
                tracing::debug!(%error, "it ended by itself, as its worker did");
            }
        }
        remove(&child.path())?;
    }
    Ok(())
}

/// `rmdir`, patient with the moment between a process's end and its group's being empty.
fn remove(directory: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + REMOVE_TIMEOUT;
    loop {
        match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(source) => {
                return Err(CgroupError::File {
                    doing: "remove",
                    path: directory.to_owned(),
                    source,
                });
            }
        }
    }
}

fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|source| CgroupError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    std::fs::write(path, value).map_err(|source| CgroupError::File {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

fn write_if_present(path: &Path, value: &str) -> Result<(), CgroupError> {
    if path.exists() {
        write(path, value)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kill_counter_of_both_versions() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(oom_kills_in(v1), 3);
        assert_eq!(oom_kills_in(v2), 2);
        assert_eq!(oom_kills_in("under_oom 0\n"), 0);
    }
}
