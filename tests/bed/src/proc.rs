//! Processes as `/proc` and the control groups show them. A process may end while it is looked at: then it is not there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::run::cgroups;

/// All processes of the machine.
#[must_use]
pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}

/// The command line of a process, its words separated by NUL; empty for one that is gone.
#[must_use]
pub fn command_line(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).into_owned()
}

/// A field of `/proc/<pid>/status`, such as `PPid` or `Uid` (the first of several values) or `VmRSS` (in kB).
#[must_use]
pub fn status(pid: u32, field: &str) -> Option<u64> {
    number(&format!("/proc/{pid}/status"), field)
}

/// The memory of a process in kB, each shared page counted in parts.
#[must_use]
pub fn pss_kb(pid: u32) -> Option<u64> {
    number(&format!("/proc/{pid}/smaps_rollup"), "Pss")
}

fn number(path: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// The children of `parent` that run Python and have `needle` in their command line: the zygotes of a worker, by its
/// directory. Instances are forked from them, but are no children of the worker as long as a zygote lives.
#[must_use]
pub fn python_children(parent: u32, needle: &str) -> Vec<u32> {
    let is_zygote = |pid: &u32| {
        let line = command_line(*pid);
        let is_python = line
            .split('\0')
            .next()
            .is_some_and(|program| program.contains("python"));
        is_python && line.contains(needle) && status(*pid, "PPid") == Some(u64::from(parent))
    };
    pids().into_iter().filter(is_zygote).collect()
}

/// The control groups `path` below the root of each hierarchy, where they exist.
#[must_use]
pub fn groups(path: &Path) -> Vec<PathBuf> {
    let roots = cgroups::hierarchies().unwrap_or_default();
    let found = roots.into_iter().map(|root| root.join(path));
    found.filter(|group| group.exists()).collect()
}

/// The processes of a control group and of those below it.
#[must_use]
pub fn members(group: &Path) -> BTreeSet<u32> {
    let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = listed.lines().filter_map(|line| line.parse().ok());
    own.chain(children(group).iter().flat_map(|child| members(child)))
        .collect()
}

/// The control groups right below one.
#[must_use]
pub fn children(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_this_process_and_what_it_takes() {
        let me = std::process::id();
        assert!(pids().contains(&me) && !command_line(me).is_empty());
        assert!(status(me, "PPid") > Some(0) && status(me, "VmRSS") > Some(0));
        assert_eq!(status(me, "Nothing"), None);
        assert_eq!(status(u32::MAX, "PPid"), None);
    }
}
