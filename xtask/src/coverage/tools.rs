//! llvm-profdata and llvm-cov of rustc's LLVM: rustup's (`llvm-tools`), or the distribution's of the same major version.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::shell::output;

/// The two programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tools {
    pub(super) profdata: PathBuf,
    pub(super) cov: PathBuf,
}

impl Tools {
    /// Those that fit the rustc in PATH.
    pub(super) fn find() -> Result<Self> {
        let version = output("rustc", &["-vV"]).context("rustc does not run")?;
        let sysroot = output("rustc", &["--print", "sysroot"]).context("rustc has no sysroot")?;
        let llvm = llvm_major(&version).context("rustc does not name its LLVM")?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.context("rustc does not name its host")?;
        let rustup = Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(host)
            .join("bin");
        let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin"));
        for folder in [rustup, debian] {
            let tools = Self {
                profdata: folder.join("llvm-profdata"),
                cov: folder.join("llvm-cov"),
            };
            if tools.profdata.is_file() && tools.cov.is_file() {
                return Ok(tools);
            }
        }
        bail!(
            "no llvm-cov of LLVM {llvm}, rustc's own: `rustup component add llvm-tools` or `apt-get install llvm-{llvm}`"
        )
    }
}

/// The major version in rustc's `LLVM version: 22.1.2`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_rustcs_llvm() {
        let version =
            "rustc 1.95.0\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        assert_eq!(llvm_major(version), Some(22));
        assert_eq!(llvm_major("rustc 1.95.0"), None);
    }
}
