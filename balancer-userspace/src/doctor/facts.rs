//! What is known of the machine. `None` is "could not be asked", never "no".

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use crate::{
    api::types::DecapStatus,
    decap::DecapConfig,
    maps::{BpfProbes, MapShape},
};

/// Everything that verdicts are made from.
#[derive(Debug, Clone)]
pub struct Facts {
    pub(super) kernel: Kernel,
    pub(super) bpf: BpfProbes,
    pub(super) interfaces: Vec<Interface>,
    /// By their dotted names; those that this kernel has not are left out.
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) memory: Memory,
    pub(super) sandbox: Sandbox,
    pub(super) idle: Idle,
    pub(super) decap: Decap,
    /// CPUs that are online.
    pub(super) cpus: u32,
}

/// The kernel as a whole.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) release: String,
    /// What stands between this process and loading programs.
    pub(super) privilege: Result<(), String>,
    /// The kernel's own type information.
    pub(super) has_btf: bool,
    /// Where pins go, and whether a BPF file system is there.
    pub(super) pin_path: PathBuf,
    pub(super) has_bpffs: Option<bool>,
}

/// One interface.
#[derive(Debug, Clone, Default)]
pub(super) struct Interface {
    pub(super) name: String,
    /// None if there is no such interface.
    pub(super) link: Option<Link>,
    /// The driver's name.
    pub(super) driver: Option<String>,
    /// `NETDEV_XDP_ACT_*`.
    pub(super) xdp_features: Option<u64>,
    /// What came of attaching a program for a moment; None if that was not tried.
    pub(super) trial: Option<Result<(), String>>,
    pub(super) channels: Option<Channels>,
    /// RX queues that the hash can choose.
    pub(super) rss_queues: Option<BTreeSet<u32>>,
    /// By protocol (`udp4`, `udp6`), whether ports are hashed too.
    pub(super) hashes_ports: BTreeMap<&'static str, bool>,
    pub(super) offloads: BTreeMap<String, Offload>,
    pub(super) numa_node: Option<i32>,
    pub(super) irqs: Vec<Irq>,
    /// Interfaces on top of this one.
    pub(super) uppers: Vec<String>,
    /// Those that a bond is made of.
    pub(super) ports: Vec<Self>,
}

/// What `ip -details link show` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) is_up: bool,
    /// It is up, and the cable or the other end is not.
    pub(super) lacks_carrier: bool,
    pub(super) mtu: u32,
    pub(super) max_mtu: Option<u32>,
    /// `veth`, `bond`, `vlan`, …; none for hardware.
    pub(super) kind: Option<String>,
    /// What kind of master it serves.
    pub(super) slave_kind: Option<String>,
    pub(super) master: Option<String>,
    /// The interface below this one.
    pub(super) lower: Option<String>,
    /// The device on its bus, and the bus.
    pub(super) parent: Option<String>,
    pub(super) bus: Option<String>,
    pub(super) xdp: Option<AttachedXdp>,
    /// How it is set, if it is a bond.
    pub(super) bond: Option<Bond>,
}

/// The settings of a bond, as `ip -details link show` names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bond {
    pub(super) mode: String,
    pub(super) xmit_hash_policy: Option<String>,
    /// How often the ports' carriers are looked at; 0 for never.
    pub(super) miimon_ms: u32,
    /// How often ARP asks whether the ports work; 0 for never.
    pub(super) arp_interval_ms: u32,
}

/// The program that an interface has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AttachedXdp {
    pub(super) is_native: bool,
    pub(super) program: u32,
}

/// `ethtool --show-channels`: queues that receive, now and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Channels {
    pub(super) now: u32,
    pub(super) max: u32,
    /// Whether they are set by `combined` (else by `rx`).
    pub(super) is_combined: bool,
}

/// One line of `ethtool --show-features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offload {
    pub(super) is_on: bool,
    pub(super) is_fixed: bool,
}

/// An interrupt of the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Irq {
    pub(super) number: u32,
    pub(super) name: String,
    /// CPUs that may take it.
    pub(super) cpus: BTreeSet<u32>,
}

/// Memory, and the maps that will be made.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    pub(super) available_bytes: Option<u64>,
    pub(super) maps: Vec<MapShape>,
    /// CPUs that may ever come online: per-CPU maps have a row for each.
    pub(super) possible_cpus: u32,
}

/// How idle processors wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Idle {
    /// Who chooses their states: `haltpoll`, `intel_idle`, …
    pub(super) driver: Option<String>,
    /// With haltpoll: how long they poll before they halt.
    pub(super) halt_poll_ns: Option<u64>,
    /// What leaving the deepest state that is allowed takes.
    pub(super) exit_us: Option<u32>,
}

/// What a worker builds sandboxes from.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    /// The worker's own check.
    pub(super) check: Result<(), String>,
    pub(super) max_user_namespaces: Option<u64>,
    pub(super) cgroups: Cgroups,
    /// `/proc/sys/kernel/seccomp/actions_avail`.
    pub(super) seccomp_actions: Option<String>,
    /// The name of their system.
    pub(super) rootfs: Result<String, String>,
    /// The version of Landlock, 0 for none.
    pub(super) landlock: u32,
}

/// Controllers by version of the hierarchy that they are in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cgroups {
    pub(super) v1: BTreeSet<String>,
    pub(super) v2: BTreeSet<String>,
    /// Whether version 2 is mounted at all.
    pub(super) has_v2: bool,
}

/// The worker's XDP program, which takes encapsulations off.
#[derive(Debug, Clone)]
pub(super) struct Decap {
    /// `[decap]` of the worker's configuration, if one was named that has it.
    pub(super) configured: Option<DecapConfig>,
    /// Where its maps are looked for.
    pub(super) pin_path: PathBuf,
    /// What is there: none if no worker has been, an error if it cannot be told.
    pub(super) running: Result<Option<DecapStatus>, String>,
    /// Addresses of this host, by interface.
    pub(super) addresses: Option<BTreeMap<String, Vec<IpAddr>>>,
}

impl Decap {
    /// The interface that encapsulated packets arrive on.
    pub(super) fn interface(&self) -> Option<&str> {
        let configured = self.configured.as_ref();
        let configured = configured.map(|config| config.interface.as_str());
        configured.or_else(|| self.running.as_ref().ok()?.as_ref()?.interface.as_deref())
    }
}
