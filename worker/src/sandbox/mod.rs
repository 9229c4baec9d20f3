//! The isolation around one instance, one kernel mechanism a file.
//!
//! | mechanism | file | what a handler meets |
//! |---|---|---|
//! | namespaces, pid 1 | `init` | its own mounts, pids, IPC, host name, network (empty), users (one) |
//! | root file system | `rootfs`; `resident` for zygotes | `/usr` and its code read-only, a private bounded `/tmp`, nothing else |
//! | cgroups | `cgroup` | limits for memory, processes and CPU, and pauses; version 1, 2, or both |
//! | the network, for functions that ask for one | `network` | what their manifest lists, and no other address |
//! | system calls | `seccomp` | an allow-list; the rest fails with EPERM |
//! | Landlock, where the kernel has it | `landlock`, `_lockdown.py` | writes to `/tmp` only, whatever is mounted |
//! | capabilities, `no_new_privs`, rlimits | the zygote's child (`sdk/python/warmpath/_lockdown.py`) | none |
//!
//! A sandbox is made ahead of its need, without knowing its function ([`SandboxMaker::make`]); it gets
//! code and limits later, which takes a millisecond ([`Sandbox::assign`]).
//!
//! Invariants: a sandbox ends when its worker does, however that ends; nothing of a destroyed sandbox is
//! left on the host; no code here is `unsafe`, but for one call in `clone`.

mod cgroup;
mod channel;
mod clone;
mod consumption;
mod end;
mod error;
mod forker;
mod founders;
mod handle;
mod init;
pub mod landlock;
mod maker;
pub mod network;
mod orphans;
mod resident;
mod rootfs;
pub mod seccomp;
mod uids;

pub use self::{
    cgroup::{CgroupError, CgroupLimits, SandboxCgroup, WorkerCgroup},
    channel::{Channel, ChannelError},
    consumption::Consumption,
    error::SandboxError,
    forker::{Answer, Forker, ForkerError, Offspring, Program},
    founders::{Executable, Founders},
    handle::{Assignment, HANDLER_ID, Namespaces, Sandbox},
    init::init_main,
    maker::SandboxMaker,
    rootfs::Root,
    uids::Uids,
};

pub(crate) use self::orphans::reap_orphans;

/// The capabilities that making sandboxes takes, with their kernel numbers.
const NEEDED: [(&str, u32); 7] = [
    ("CAP_CHOWN", 0),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_SYS_ADMIN", 21),
];

/// Why this process cannot make sandboxes. One line: what is missing and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Not root.
    #[error("sandboxes need root: start the worker as root (sudo)")]
    NotRoot,
    /// Root without the powers of root, as in an ordinary container.
    #[error(
        "sandboxes need {0}, which this process lacks: run it outside a container, or grant it"
    )]
    Capability(&'static str),
    /// The kernel lacks a kind of namespace, or has it switched off.
    #[error(
        "the kernel has no {0} namespaces: use one with CONFIG_NAMESPACES and all of its kinds"
    )]
    Namespace(&'static str),
    /// User namespaces are limited to none.
    #[error(
        "user namespaces are switched off: set the sysctl user.max_user_namespaces to 10000 or more"
    )]
    UserNamespaces,
    /// Cgroups are not as needed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No system call list for this processor.
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
}

/// Whether this process can make sandboxes here.
///
/// # Errors
/// Says in one line what is missing and how to mend it.
pub fn check() -> Result<(), CheckError> {
    if !rustix::process::geteuid().is_root() {
        return Err(CheckError::NotRoot);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(name) = missing_capability(&status) {
        return Err(CheckError::Capability(name));
    }
    for kind in ["mnt", "pid", "ipc", "uts", "net", "user", "cgroup"] {
        if !std::path::Path::new("/proc/self/ns").join(kind).exists() {
            return Err(CheckError::Namespace(kind));
        }
    }
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if most.trim() == "0" {
        return Err(CheckError::UserNamespaces);
    }
    seccomp::programs(seccomp::Sockets::Local)?;
    Ok(WorkerCgroup::check()?)
}

/// The first of [`NEEDED`] that a process with this `/proc/<pid>/status` lacks.
fn missing_capability(status: &str) -> Option<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    NEEDED
        .iter()
        .find(|(_, number)| effective & (1 << number) == 0)
        .map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_capability_that_is_missing() {
        // Docker's default set, as `grep CapEff /proc/self/status` shows it there.
        let docker = "Name:\tx\nCapEff:\t00000000a80425fb\n";
        assert_eq!(missing_capability(docker), Some("CAP_SYS_ADMIN"));
        assert_eq!(missing_capability("CapEff:\t000001ffffffffff\n"), None);
        assert_eq!(missing_capability(""), Some("CAP_CHOWN"));
    }
}
