//! The floors of the tests that are carried to other kernels, and what each takes along.

use std::path::PathBuf;

use clap::ValueEnum;

use super::{initramfs::Guest, suite::Suite};

/// Where the tests and the object are in a virtual machine.
const TESTS: &str = "/tests";
const OBJECT: &str = "/balancer.o";
/// Read by `tests/prog`'s object.rs and differential.rs.
pub(super) const OBJECT_VARIABLE: &str = "WARMPATH_EBPF_OBJECT";
const FRAMES_VARIABLE: &str = "WARMPATH_TEST_FRAMES";
/// Read by `tests/sandbox`'s bed.rs: by how much everything takes longer.
const SLOWER_VARIABLE: &str = "WARMPATH_TEST_SLOWER";
/// An emulated processor, measured by the start of Python.
const SLOWER: u32 = 10;
/// What handlers and the attempts to escape start.
const PYTHON: &str = "/usr/bin/python3";
const SANDBOX_PROGRAMS: [&str; 7] = [
    PYTHON,
    "/usr/sbin/ip",
    "/usr/bin/grep",
    "/usr/bin/id",
    "/usr/bin/nsenter",
    "/usr/bin/unshare",
    "/usr/sbin/nft",
];
/// Python's standard library.
const SANDBOX_FOLDERS: [&str; 1] = ["/usr/lib/python3.11"];
/// What a sandbox with a network is made of.
const SANDBOX_MODULES: [&str; 6] = [
    "veth",
    "nf_tables",
    "nft_ct",
    "nft_masq",
    "nft_chain_nat",
    "nft_reject_inet",
];

/// A floor of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Floor {
    /// The loaded program (`tests/prog`).
    Program,
    /// What a handler can do (`tests/sandbox`), there on cgroup version 2 alone.
    Sandbox,
}

impl Floor {
    /// The package that holds its tests.
    pub(super) const fn package(self) -> &'static str {
        match self {
            Self::Program => "prog-tests",
            Self::Sandbox => "tests",
        }
    }

    /// Their target in it.
    pub(super) const fn test(self) -> &'static str {
        match self {
            Self::Program => "prog",
            Self::Sandbox => "sandbox",
        }
    }

    /// The virtual machine that runs `suite`.
    pub(super) fn guest(self, suite: &Suite, frames: u64) -> Guest {
        let tests = (suite.binary.clone(), PathBuf::from(TESTS));
        let run = format!("{TESTS} {}\n", suite.args().join(" "));
        match self {
            Self::Program => Guest {
                // Some tests make a veth pair, which busybox's `ip` cannot.
                programs: vec![tests, ("ip".into(), "/sbin/ip".into())],
                files: vec![(suite.object.clone(), OBJECT.into())],
                modules: vec!["veth"],
                script: format!("{OBJECT_VARIABLE}={OBJECT} {FRAMES_VARIABLE}={frames} {run}"),
                ..Guest::default()
            },
            Self::Sandbox => {
                let here = |path: PathBuf| (path.clone(), path);
                // The tests know the path of sandbox-init since they were compiled.
                let built = suite.programs.iter().map(|(_, path)| here(path.clone()));
                let mut programs = vec![tests];
                programs.extend(built);
                programs.extend(SANDBOX_PROGRAMS.map(|path| here(path.into())));
                Guest {
                    programs,
                    folders: SANDBOX_FOLDERS.map(PathBuf::from).to_vec(),
                    modules: SANDBOX_MODULES.to_vec(),
                    pivots: true,
                    script: format!(
                        "{SLOWER_VARIABLE}={SLOWER} PATH=/usr/sbin:/usr/bin:$PATH {run}"
                    ),
                    ..Guest::default()
                }
            }
        }
    }
}
