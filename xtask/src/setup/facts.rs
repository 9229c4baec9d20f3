//! What the machine is and has, as far as setup needs to know.

use std::{collections::BTreeSet, fs};

use crate::{
    kernels::{initramfs::BUSYBOX, vm::QEMU},
    shell::{is_root, output},
    toolchain::{Candidates, which},
};

/// Where packages come from on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    /// apt, with `rustc-web`.
    Debian,
    /// apt, without it.
    Ubuntu,
    /// We can only say what is missing.
    Other,
}

/// A program that the demo and the privileged tests start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tool {
    /// Its name.
    pub(crate) program: &'static str,
    /// The Debian package it is in.
    pub(crate) package: &'static str,
}

/// All of them.
pub(crate) const TOOLS: &[Tool] = &[
    Tool {
        program: "ip",
        package: "iproute2",
    },
    Tool {
        program: "nsenter",
        package: "util-linux",
    },
    Tool {
        program: "setpriv",
        package: "util-linux",
    },
    // The tests of functions with a network.
    Tool {
        program: "nft",
        package: "nftables",
    },
    Tool {
        program: "ethtool",
        package: "ethtool",
    },
    Tool {
        program: "curl",
        package: "curl",
    },
    Tool {
        program: "/usr/bin/python3",
        package: "python3",
    },
    // Takes the packages of a root file system apart.
    Tool {
        program: "dpkg-deb",
        package: "dpkg",
    },
    // Resolves what functions require.
    Tool {
        program: "/usr/bin/pip3",
        package: "python3-pip",
    },
];

/// What only `cargo xtask kernels` and `pktgen --vm` need: the emulator is large, and CI does without.
pub(crate) const EMULATION_TOOLS: &[Tool] = &[
    Tool {
        program: QEMU,
        package: "qemu-system-x86",
    },
    Tool {
        program: BUSYBOX,
        package: "busybox-static",
    },
];

/// What only `cargo xtask bench worker` needs: the container runtimes that our sandboxes are compared with.
const CONTAINER_TOOLS: &[Tool] = &[
    Tool {
        program: "crun",
        package: "crun",
    },
    Tool {
        program: "runc",
        package: "runc",
    },
];

/// What the machine shall be made ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building, testing and showing the project.
    Project,
    /// All of that, and other kernels in virtual machines.
    Kernels,
    /// Building and showing the project, and containers to compare it with.
    Containers,
}

impl Purpose {
    fn tools(self) -> impl Iterator<Item = &'static Tool> {
        let more = match self {
            Self::Project => &[],
            Self::Kernels => EMULATION_TOOLS,
            Self::Containers => CONTAINER_TOOLS,
        };
        TOOLS.iter().chain(more)
    }
}

/// What was found.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) distribution: Distribution,
    pub(crate) is_root: bool,
    pub(crate) has_rustup: bool,
    /// Compilers and linker for the XDP program.
    pub(crate) candidates: Candidates,
    /// Debian packages that are installed, of those that setup may ask for.
    pub(crate) packages: BTreeSet<String>,
    /// Tools that are not there.
    pub(crate) missing_tools: Vec<Tool>,
}

impl Facts {
    /// Looks at the machine. Changes nothing.
    pub(crate) fn probe(purpose: Purpose) -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self {
            distribution: distribution(&release),
            is_root: is_root(),
            has_rustup: which("rustup").is_some(),
            candidates: Candidates::probe(),
            packages: installed_packages(),
            missing_tools: purpose
                .tools()
                .filter(|tool| which(tool.program).is_none())
                .copied()
                .collect(),
        }
    }
}

fn distribution(os_release: &str) -> Distribution {
    let field = |name: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map_or("", |value| value.trim_matches('"'))
    };
    let ids = format!("{} {}", field("ID"), field("ID_LIKE"));
    let mut ids = ids.split_whitespace();
    match ids.next() {
        Some("debian") => Distribution::Debian,
        Some("ubuntu") => Distribution::Ubuntu,
        _ if ids.any(|id| id == "ubuntu") => Distribution::Ubuntu,
        _ => Distribution::Other,
    }
}

fn installed_packages() -> BTreeSet<String> {
    let list = output(
        "dpkg-query",
        &["-W", "-f", "${db:Status-Abbrev} ${Package}\n"],
    );
    list.unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("ii ").map(|name| name.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_asked_for_only_by_the_benchmark() {
        let asks = |purpose: Purpose| purpose.tools().any(|tool| tool.package == "crun");
        assert!(asks(Purpose::Containers) && !asks(Purpose::Project) && !asks(Purpose::Kernels));
    }

    #[test]
    fn the_emulator_is_asked_for_only_where_it_is_needed() {
        let programs =
            |purpose: Purpose| -> Vec<_> { purpose.tools().map(|tool| tool.program).collect() };
        assert!(!programs(Purpose::Project).contains(&QEMU));
        assert!(programs(Purpose::Kernels).contains(&QEMU));
        assert!(programs(Purpose::Kernels).contains(&"ip"));
    }

    #[test]
    fn tells_debian_ubuntu_and_others_apart() {
        assert_eq!(distribution("NAME=x\nID=debian\n"), Distribution::Debian);
        assert_eq!(
            distribution("ID=ubuntu\nID_LIKE=debian\n"),
            Distribution::Ubuntu
        );
        assert_eq!(
            distribution("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"),
            Distribution::Ubuntu
        );
        assert_eq!(distribution("ID=fedora\n"), Distribution::Other);
        assert_eq!(distribution(""), Distribution::Other);
    }
}
