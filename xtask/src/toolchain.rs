//! Which compiler and linker build the XDP program: found, never guessed.
//!
//! Two ways work (both seen): rustup's nightly with `rust-src`, which builds `core` itself, and Debian's
//! `rustc-web` with the prebuilt `core` of `libstd-rust-web-dev-bpf`. Either needs a `bpf-linker` whose LLVM
//! is not older than the compiler's, or it cannot read the compiler's bitcode.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::shell::output;

/// Debian's compiler; rustup's comes before it in PATH.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const BPF_TARGET: &str = "bpfel-unknown-none";

/// A pair of compiler and linker that fit each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EbpfToolchain {
    /// `cargo +nightly … -Z build-std=core`.
    Nightly {
        /// The bpf-linker.
        linker: PathBuf,
    },
    /// `RUSTC_BOOTSTRAP=1 RUSTC=… cargo …` with a prebuilt `core`.
    Debian {
        /// The compiler.
        rustc: PathBuf,
        /// The bpf-linker.
        linker: PathBuf,
    },
}

/// A compiler that may build for BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// Whether it has `core` for BPF: as source (nightly) or prebuilt (Debian).
    pub(crate) has_core: bool,
}

/// An installed bpf-linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linker {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Major version of its LLVM; unknown when it is linked statically.
    pub(crate) llvm: Option<u32>,
}

/// What is on the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Candidates {
    pub(crate) nightly: Option<Compiler>,
    pub(crate) debian: Option<Compiler>,
    pub(crate) linker: Option<Linker>,
}

impl Candidates {
    /// Looks at the machine.
    pub(crate) fn probe() -> Self {
        Self {
            nightly: nightly(),
            debian: debian(),
            linker: linker(),
        }
    }

    /// The first pair that works.
    pub(crate) fn choose(&self) -> Option<EbpfToolchain> {
        let linker = self.linker.as_ref()?;
        let fits = |compiler: &Option<Compiler>| {
            compiler
                .as_ref()
                .is_some_and(|it| it.has_core && linker.llvm.is_none_or(|llvm| llvm >= it.llvm))
        };
        let path = linker.path.clone();
        if fits(&self.nightly) {
            return Some(EbpfToolchain::Nightly { linker: path });
        }
        fits(&self.debian).then(|| EbpfToolchain::Debian {
            rustc: PathBuf::from(DEBIAN_RUSTC),
            linker: path,
        })
    }
}

/// The pair to build with.
///
/// # Errors
/// When there is none.
pub(crate) fn find() -> Result<EbpfToolchain> {
    match Candidates::probe().choose() {
        Some(toolchain) => Ok(toolchain),
        None => bail!("no tool chain that builds the XDP program: run `cargo xtask setup`"),
    }
}

fn nightly() -> Option<Compiler> {
    let version = output("rustup", &["run", "nightly", "rustc", "-vV"])?;
    let sysroot = output("rustup", &["run", "nightly", "rustc", "--print", "sysroot"])?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    Some(Compiler {
        llvm: llvm_of_rustc(&version)?,
        has_core: source.exists(),
    })
}

fn debian() -> Option<Compiler> {
    let version = output(DEBIAN_RUSTC, &["-vV"])?;
    let target = Path::new("/usr/lib/rustlib").join(BPF_TARGET);
    Some(Compiler {
        llvm: llvm_of_rustc(&version)?,
        has_core: target.exists(),
    })
}

fn linker() -> Option<Linker> {
    let path = which("bpf-linker")?;
    // It must run: one whose LLVM library was removed does not.
    output(path.to_str()?, &["--version"])?;
    let libraries = output("ldd", &[path.to_str()?]);
    Some(Linker {
        path,
        llvm: libraries.as_deref().and_then(llvm_of_libraries),
    })
}

/// Where `program` is: in PATH, or where `cargo install` puts it.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::split_paths(&path)
        .chain(cargo_home.or(home).map(|dir| dir.join("bin")))
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

fn llvm_of_rustc(version: &str) -> Option<u32> {
    let line = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

fn llvm_of_libraries(ldd: &str) -> Option<u32> {
    let line = ldd
        .lines()
        .find(|line| line.trim_start().starts_with("libLLVM"))?;
    let name = line.split_whitespace().next()?;
    // `libLLVM.so.22.1` and the older `libLLVM-22.so.1`.
    name.split(|c: char| !c.is_ascii_digit())
        .find(|part| !part.is_empty())?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linker(llvm: Option<u32>) -> Option<Linker> {
        Some(Linker {
            path: PathBuf::from("/bin/bpf-linker"),
            llvm,
        })
    }

    const fn compiler(llvm: u32, has_core: bool) -> Option<Compiler> {
        Some(Compiler { llvm, has_core })
    }

    #[test]
    fn a_nightly_without_source_is_passed_over_for_debians_compiler() {
        let candidates = Candidates {
            nightly: compiler(22, false),
            debian: compiler(22, true),
            linker: linker(Some(22)),
        };
        assert!(matches!(
            candidates.choose(),
            Some(EbpfToolchain::Debian { .. })
        ));
    }

    #[test]
    fn a_linker_with_an_older_llvm_than_the_compilers_does_not_fit() {
        let mut candidates = Candidates {
            nightly: compiler(23, true),
            debian: None,
            linker: linker(Some(22)),
        };
        assert_eq!(candidates.choose(), None);
        candidates.linker = linker(Some(23));
        assert!(matches!(
            candidates.choose(),
            Some(EbpfToolchain::Nightly { .. })
        ));
    }

    #[test]
    fn without_a_linker_there_is_no_tool_chain() {
        let candidates = Candidates {
            nightly: compiler(22, true),
            debian: compiler(22, true),
            linker: None,
        };
        assert_eq!(candidates.choose(), None);
    }

    #[test]
    fn reads_llvm_versions_as_the_tools_print_them() {
        assert_eq!(
            llvm_of_rustc("rustc 1.96.0\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        let new = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)\n";
        assert_eq!(llvm_of_libraries(new), Some(22));
        assert_eq!(
            llvm_of_libraries("\tlibLLVM-19.so.1 => /x (0x0)\n"),
            Some(19)
        );
        assert_eq!(llvm_of_libraries("\tlibc.so.6 => /x (0x0)\n"), None);
    }
}
