//! Processes of sandboxes that have become this process's children because whoever forked them ended first: a zygote
//! that was killed before it could say whom it had forked. A pid namespace does not end before all its processes are
//! reaped, so that one of these would keep a whole sandbox.

use std::{collections::BTreeSet, fs};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Reaps those that have ended. Not the inits of sandboxes: whoever holds a sandbox reaps its init, whose pid has to stay
/// its own until then. One system call if no child of this process has ended.
pub(crate) fn reap_orphans() {
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if !matches!(waitid(WaitId::All, peek), Ok(Some(_))) {
        return;
    }
    for pid in children().into_iter().filter_map(Pid::from_raw) {
        // Hundreds live, as a rule; asking for the end of one takes a tenth of reading of it.
        if !matches!(waitid(WaitId::Pid(pid), peek), Ok(Some(_))) {
            continue;
        }
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
        if is_dead_and_inside(&status.unwrap_or_default()) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let reaped = waitid(WaitId::Pid(pid), options);
            tracing::debug!(?pid, ?reaped, "an orphan of a sandbox");
        }
    }
}

/// The children of all threads of this process.
fn children() -> BTreeSet<i32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|line| {
            let pids = line.split_whitespace().map(str::parse::<i32>);
            pids.flatten().collect::<Vec<_>>()
        })
        .collect()
}

/// Whether a process with this `/proc/<pid>/status` has ended, and lived in a pid namespace below ours without being
/// its init.
fn is_dead_and_inside(status: &str) -> bool {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let is_dead = value("State:").is_some_and(|state| state.trim_start().starts_with('Z'));
    let pids: Vec<&str> = value("NSpid:")
        .into_iter()
        .flat_map(str::split_whitespace)
        .collect();
    is_dead && pids.len() > 1 && pids.last() != Some(&"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_of_sandboxes_are_reaped() {
        let status =
            |state: &str, pids: &str| format!("Name:\tx\nState:\t{state}\nNSpid:\t{pids}\n");
        assert!(is_dead_and_inside(&status("Z (zombie)", "812\t3")));
        assert!(!is_dead_and_inside(&status("S (sleeping)", "812\t3")));
        assert!(
            !is_dead_and_inside(&status("Z (zombie)", "812")),
            "a zygote"
        );
        assert!(
            !is_dead_and_inside(&status("Z (zombie)", "812\t1")),
            "an init"
        );
        assert!(!is_dead_and_inside(""));
    }

    #[test]
    fn a_child_of_this_process_is_found() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let found = children();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&child.id().cast_signed()));
    }
}
