//! What a group may use, and what it uses. The cgroups-rs crate sets limits; files that it has no (working) call
//! for, such as the counter of kills for want of memory, are read and written here.

use std::path::Path;

use cgroups_rs::fs::{
    Cgroup, MaxValue, cpu::CpuController, memory::MemController, pid::PidController,
};

use super::{
    CgroupError,
    files::{read, write_if_present},
};

/// The scheduler's accounting period for the CPU limit.
const CPU_PERIOD_US: u64 = 100_000;

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

impl CgroupLimits {
    /// Sets the limits. Swap is denied: a handler above its memory limit is killed, not slowed.
    pub(super) fn set(
        self,
        group: &Cgroup,
        memory_directory: &Path,
        is_v2: bool,
    ) -> Result<(), CgroupError> {
        let failed = |doing| {
            move |source| CgroupError::Library {
                doing,
                path: group.path().to_owned(),
                source,
            }
        };
        let memory: &MemController = group
            .controller_of()
            .ok_or(CgroupError::Missing("memory"))?;
        let bytes = i64::try_from(self.memory_bytes).unwrap_or(i64::MAX);
        memory
            .set_limit(bytes)
            .map_err(failed("limit the memory of"))?;
        let swap = memory_directory;
        if is_v2 {
            write_if_present(&swap.join("memory.swap.max"), "0")?;
        } else {
            write_if_present(
                &swap.join("memory.memsw.limit_in_bytes"),
                &bytes.to_string(),
            )?;
        }
        let pids: &PidController = group.controller_of().ok_or(CgroupError::Missing("pids"))?;
        pids.set_pid_max(MaxValue::Value(i64::from(self.pids)))
            .map_err(failed("limit the processes of"))?;
        let cpu: &CpuController = group.controller_of().ok_or(CgroupError::Missing("cpu"))?;
        let quota = CPU_PERIOD_US * u64::from(self.cpu_percent) / 100;
        cpu.set_cfs_quota_and_period(i64::try_from(quota).ok(), Some(CPU_PERIOD_US))
            .map_err(failed("limit the CPU time of"))
    }
}

/// Processes of the group that the kernel killed for want of memory.
pub(super) fn oom_kills(memory_directory: &Path, is_v2: bool) -> u64 {
    let file = if is_v2 {
        "memory.events"
    } else {
        "memory.oom_control"
    };
    read(&memory_directory.join(file)).map_or(0, |text| oom_kills_in(&text))
}

/// Memory that the group uses now.
pub(super) fn memory_bytes(memory_directory: &Path, is_v2: bool) -> Option<u64> {
    let file = if is_v2 {
        "memory.current"
    } else {
        "memory.usage_in_bytes"
    };
    let text = read(&memory_directory.join(file)).ok()?;
    text.trim().parse().ok()
}

/// The `oom_kill N` line of `memory.events` (version 2) or `memory.oom_control` (version 1, Linux 4.13).
fn oom_kills_in(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
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
