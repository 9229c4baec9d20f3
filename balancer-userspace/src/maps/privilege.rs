//! Whether this process may do what the data plane needs, asked before anything is touched.

use std::fs;

use thiserror::Error;

/// A capability by its name and number (linux/capability.h).
type Capability = (&'static str, u32);

const CAP_NET_ADMIN: Capability = ("CAP_NET_ADMIN", 12);
const CAP_SYS_ADMIN: Capability = ("CAP_SYS_ADMIN", 21);
const CAP_BPF: Capability = ("CAP_BPF", 39);

/// This process may not load and attach BPF programs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not allowed to load and attach BPF programs: run as root (missing: {})", missing.join(", "))]
pub struct PrivilegeError {
    missing: Vec<&'static str>,
}

/// Checks this process's effective capabilities.
///
/// # Errors
/// [`PrivilegeError`] names those that are missing.
pub fn check_privilege() -> Result<(), PrivilegeError> {
    // Without /proc nothing can be said, and the kernel's own refusal comes later.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective(&status).map_or_else(Vec::new, missing) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(PrivilegeError { missing }),
    }
}

fn effective(status: &str) -> Option<u64> {
    let digits = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |(_, number): Capability| effective & (1 << number) != 0;
    let mut missing = Vec::new();
    // CAP_SYS_ADMIN was all there was before Linux 5.8 and still implies CAP_BPF.
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push(CAP_BPF.0);
    }
    if !has(CAP_NET_ADMIN) {
        missing.push(CAP_NET_ADMIN.0);
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let nobody = effective("Name:\tx\nCapEff:\t0000000000000000\n").unwrap();
        assert_eq!(missing(nobody), ["CAP_BPF", "CAP_NET_ADMIN"]);
        assert_eq!(missing(1 << 21 | 1 << 12), Vec::<&str>::new());
        assert_eq!(missing(1 << 39), ["CAP_NET_ADMIN"]);
        assert_eq!(effective("nothing"), None);
    }
}
