//! The floors of the tests that are carried to other kernels, and what each takes along.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;

use super::{
    initramfs::Guest,
    suite::{Machine, Suite},
};
use crate::{build_ebpf, demo, rootfs, wheels};

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
/// What workers and handlers start, and what the tests do themselves: by the paths that they have on every Debian.
const SANDBOX_PROGRAMS: [&str; 22] = [
    "/usr/bin/python3",
    "/usr/bin/node",
    "/usr/bin/perl",
    "/usr/bin/sh",
    "/usr/sbin/ip",
    "/usr/sbin/nft",
    "/usr/bin/nsenter",
    "/usr/bin/unshare",
    "/usr/bin/grep",
    "/usr/bin/id",
    "/usr/bin/sleep",
    // The root file system's builder is tested with a package that is made there.
    "/usr/bin/bash",
    "/usr/bin/dpkg-deb",
    "/usr/bin/ldd",
    "/usr/bin/rm",
    "/usr/bin/tar",
    "/usr/bin/true",
    "/usr/sbin/chroot",
    "/usr/sbin/ldconfig",
    // Of the host's that a handler on a built root must not see.
    "/usr/bin/curl",
    "/usr/bin/pip3",
    "/usr/bin/env",
];
/// The standard libraries of Python and Perl, and pip.
const SANDBOX_FOLDERS: [&str; 6] = [
    "/usr/lib/python3.11",
    "/usr/lib/python3",
    "/usr/share/perl",
    "/usr/lib/x86_64-linux-gnu/perl",
    "/usr/lib/x86_64-linux-gnu/perl-base",
    "/usr/share/zoneinfo",
];
/// What they show cannot be shown there, whatever they are given.
const SANDBOX_LEFT_OUT: [(&str, &str); 0] = [];
/// Below cargo's target: the packages of `cargo xtask wheels` and the root of `cargo xtask rootfs`.
const SANDBOX_BUILT: [&str; 2] = ["wheels", "rootfs"];
/// Of the programs that cargo builds for the tests, the one that the pools run.
const SANDBOX_INIT: &str = "sandbox-init";
/// All of that, twice while it is unpacked.
const SANDBOX_MEMORY_MIB: u32 = 4_096;
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
    /// Sees to what its machines take along beside the tests.
    ///
    /// # Errors
    /// It cannot be built or fetched.
    pub(super) fn prepare(self, root: &Path) -> Result<()> {
        match self {
            Self::Program => build_ebpf::build_ebpf(root).map(drop),
            Self::Sandbox => {
                wheels::fetch(root)?;
                demo::build(root)?;
                rootfs::build(root)
            }
        }
    }

    /// Their target in it.
    pub(super) const fn test(self) -> &'static str {
        match self {
            Self::Program => "prog",
            Self::Sandbox => "sandbox",
        }
    }

    /// Tests that an emulated machine cannot run, each with the reason.
    pub(super) const fn left_out(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Program => &[],
            Self::Sandbox => &SANDBOX_LEFT_OUT,
        }
    }

    /// The virtual machine that runs `suite`.
    pub(super) fn guest(self, suite: &Suite, frames: u64) -> Guest {
        let tests = (suite.binary.clone(), PathBuf::from(TESTS));
        let run = format!("{TESTS} {}\n", suite.args(Machine::Emulated).join(" "));
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
                let mut built = suite.programs.clone();
                built.retain(|(name, _)| name == SANDBOX_INIT);
                let mut programs = vec![tests];
                programs.extend(built.into_iter().map(|(_, path)| here(path)));
                programs.extend(SANDBOX_PROGRAMS.map(|path| here(path.into())));
                let mut folders = SANDBOX_FOLDERS.map(PathBuf::from).to_vec();
                folders.extend(SANDBOX_BUILT.map(|name| suite.target.join(name)));
                Guest {
                    programs,
                    folders,
                    own_time: true,
                    memory_mib: Some(SANDBOX_MEMORY_MIB),
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
