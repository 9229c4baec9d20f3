//! Which hierarchies of this host a sandbox is in.
//!
//! | host | limits | pause, kill |
//! |---|---|---|
//! | version 2 alone | version 2 | version 2 |
//! | hybrid: version 1 controllers, an empty version 2 tree beside them | version 1 | version 2 |
//! | version 1 alone | version 1 | version 1 freezer if it is mounted; no kill at once |

use std::path::{Path, PathBuf};

use cgroups_rs::fs::{
    Cgroup, Controllers, Hierarchy,
    hierarchies::{V1, V2, is_cgroup2_unified_mode},
};

use super::{CgroupError, files::read, freeze::Freezer};

/// The controllers that a sandbox needs, by their kernel names. Version 1 counts CPU time in one of its own.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];
/// What version 2 has them in.
const CONTROLLERS_V2: [&str; 3] = ["memory", "pids", "cpu"];
/// Where version 2 is mounted when it is alone.
const V2_ROOT: &str = "/sys/fs/cgroup";
/// Where mounts are listed.
const MOUNTS: &str = "/proc/self/mounts";

/// The hierarchies of this host.
#[derive(Debug, Clone)]
pub(super) enum Layout {
    /// Version 1 controllers.
    V1 {
        hierarchy: V1,
        /// The controllers' roots, the one of the memory controller first, the one that counts CPU time last.
        roots: Vec<PathBuf>,
        /// What groups are paused by, if anything.
        pause: Option<Pause>,
    },
    /// Version 2 alone.
    V2 { root: PathBuf },
}

/// What groups are paused by beside version 1 controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pause {
    /// A version 2 hierarchy without controllers, at this mount point.
    Unified(PathBuf),
    /// The version 1 freezer, at this mount point.
    Freezer(PathBuf),
}

impl Layout {
    /// Looks at what is mounted.
    pub(super) fn detect() -> Result<Self, CgroupError> {
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
            Controllers::Mem,
            Controllers::Pids,
            Controllers::Cpu,
            Controllers::CpuAcct,
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
        let pause = pause_in(&read(Path::new(MOUNTS))?);
        Ok(Self::V1 {
            hierarchy,
            roots,
            pause,
        })
    }

    /// Whether limits and counters are those of version 2.
    pub(super) const fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// Makes the group `path` in every hierarchy.
    pub(super) fn create(&self, path: &str) -> Result<Cgroup, CgroupError> {
        let hierarchy: Box<dyn Hierarchy> = match self {
            Self::V1 { hierarchy, .. } => Box::new(hierarchy.clone()),
            Self::V2 { .. } => Box::new(V2::new()),
        };
        let names: &[&str] = if self.is_v2() {
            &CONTROLLERS_V2
        } else {
            &CONTROLLERS
        };
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let group = Cgroup::new_with_specified_controllers(hierarchy, path, Some(names)).map_err(
            |source| CgroupError::Library {
                doing: "make",
                path: path.to_owned(),
                source,
            },
        )?;
        if let Some(directory) = self.pause_directory(path) {
            std::fs::create_dir_all(&directory).map_err(|source| CgroupError::File {
                doing: "make",
                path: directory,
                source,
            })?;
        }
        Ok(group)
    }

    /// The directories that make up the group `path`, the one with the memory controller first.
    pub(super) fn directories(&self, path: &str) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = match self {
            Self::V1 { roots, .. } => roots.iter().map(|root| root.join(path)).collect(),
            Self::V2 { root } => vec![root.join(path)],
        };
        directories.extend(self.pause_directory(path));
        directories
    }

    /// The directory of the group `path` that counts CPU time.
    pub(super) fn cpu_directory(&self, path: &str) -> PathBuf {
        match self {
            // There is always one: without controllers nothing is detected.
            Self::V1 { roots, .. } => roots.last().map(|root| root.join(path)).unwrap_or_default(),
            Self::V2 { root } => root.join(path),
        }
    }

    /// What pauses and kills the group `path`.
    pub(super) fn freezer(&self, path: &str) -> Option<Freezer> {
        match self {
            Self::V2 { root } => Some(Freezer::v2(root.join(path))),
            Self::V1 { pause, .. } => match pause.as_ref()? {
                Pause::Unified(root) => Some(Freezer::v2(root.join(path))),
                Pause::Freezer(root) => Some(Freezer::v1(root.join(path))),
            },
        }
    }

    fn pause_directory(&self, path: &str) -> Option<PathBuf> {
        let Self::V1 {
            pause: Some(Pause::Unified(root) | Pause::Freezer(root)),
            ..
        } = self
        else {
            return None;
        };
        Some(root.join(path))
    }
}

/// What groups can be paused by on a host with these `mounts`; version 2 where there is a choice: it freezes
/// at once, and kills what is frozen.
fn pause_in(mounts: &str) -> Option<Pause> {
    let find = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            wanted(kind, options).then(|| PathBuf::from(point))
        })
    };
    let is_writable = |options: &str| options.split(',').any(|option| option == "rw");
    let has_freezer = |options: &str| options.split(',').any(|option| option == "freezer");
    find(&|kind, options| kind == "cgroup2" && is_writable(options))
        .map(Pause::Unified)
        .or_else(|| {
            find(&|kind, options| kind == "cgroup" && is_writable(options) && has_freezer(options))
                .map(Pause::Freezer)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/freezer cgroup rw,relatime,freezer 0 0
";

    #[test]
    fn pauses_by_version_2_where_it_is_mounted_beside_version_1() {
        let hybrid = format!("{V1}cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n");
        let unified = PathBuf::from("/sys/fs/cgroup/unified");
        assert_eq!(pause_in(&hybrid), Some(Pause::Unified(unified)));
    }

    #[test]
    fn pauses_by_the_old_freezer_otherwise_or_not_at_all() {
        let freezer = Some(Pause::Freezer(PathBuf::from("/sys/fs/cgroup/freezer")));
        assert_eq!(pause_in(V1), freezer);
        let read_only = format!("{V1}cgroup2 /sys/fs/cgroup/unified cgroup2 ro,relatime 0 0\n");
        assert_eq!(pause_in(&read_only), freezer);
        assert_eq!(pause_in("cgroup /c/memory cgroup rw,memory 0 0\n"), None);
        assert_eq!(pause_in("short line\n\n"), None);
    }
}
