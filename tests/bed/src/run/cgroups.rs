//! Control groups of a run, in every hierarchy of the machine (v1, v2 or both).

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait;

/// Groups nest a few levels deep at most; anything deeper is not ours.
const DEPTH_MAX: usize = 8;
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where cgroup file systems are mounted.
pub(crate) fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (at, kind) = (fields.next()?, fields.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(at))
        })
        .collect())
}

/// Every group of the machine.
pub(crate) fn all() -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for root in hierarchies()? {
        walk(&root, 0, &mut found);
    }
    Ok(found)
}

fn walk(dir: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    // A group may vanish while we look: then there is nothing to list.
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            if depth < DEPTH_MAX {
                walk(&path, depth + 1, found);
            }
            found.insert(path);
        }
    }
}

/// Ends every process in the groups named `id` or `id-…`, and in those below them, and removes them.
/// Returns how many groups there were.
pub(crate) fn remove(id: &str) -> Result<usize> {
    let ours: Vec<PathBuf> = all()?
        .into_iter()
        .filter(|path| {
            path.components()
                .any(|part| is_named(&part.as_os_str().to_string_lossy(), id))
        })
        .collect();
    // A child sorts after its parent, and must go first.
    for group in ours.iter().rev() {
        remove_one(group)?;
    }
    Ok(ours.len())
}

fn is_named(name: &str, id: &str) -> bool {
    name.strip_prefix(id)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn remove_one(group: &Path) -> Result<()> {
    // A frozen process does not die before it is thawed (v1); v2 kills frozen ones too.
    for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let path = group.join(file);
        if path.exists() {
            fs::write(&path, value).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    wait::until(
        "a control group to empty",
        KILL_TIMEOUT,
        || match fs::remove_dir(group) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(())),
            Err(error) => {
                kill_members(group);
                Err(error.into())
            }
        },
    )
    .with_context(|| format!("removing {}", group.display()))
}

fn kill_members(group: &Path) {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse::<i32>().ok()) {
        if pid > 1 && kill(Pid::from_raw(pid), Signal::SIGKILL).is_err() {
            tracing::debug!(pid, "already gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_run_10_are_not_those_of_run_1() {
        assert!(is_named("wp2an1", "wp2an1") && is_named("wp2an1-w0", "wp2an1"));
        assert!(!is_named("wp2an10", "wp2an1"));
    }
}
