//! Verdicts on machines that we have, and on ones that we have not.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::*;
use crate::{
    api::types::DecapStatus,
    doctor::{
        Check, Role, Verdict,
        facts::{
            AttachedXdp, Cgroups, Channels, Decap, Idle, Interface, Irq, Kernel, Link, Memory,
            Offload, Sandbox,
        },
    },
    maps::{BpfProbes, Loaded},
};

const LOADED: Loaded = Loaded {
    verified: 9_339,
    is_compiled: true,
};

fn options(role: Role) -> Options {
    Options {
        interface: Some("eth0".to_owned()),
        config: None,
        pin_path: PathBuf::from("/sys/fs/bpf/warmpath"),
        role,
        vip_mtu: 1_500,
        trial: false,
        decap: None,
        sandbox: Ok(()),
        rootfs: Ok("host".to_owned()),
        landlock: 7,
    }
}

/// A server with eight CPUs and a good network card, all as it should be.
pub(super) fn good() -> Facts {
    let names = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    };
    let yes = |name: &str| (name.to_owned(), Ok(true));
    Facts {
        kernel: Kernel {
            release: "6.12.117+deb12-amd64".to_owned(),
            privilege: Ok(()),
            has_btf: true,
            pin_path: PathBuf::from("/sys/fs/bpf/warmpath"),
            has_bpffs: Some(true),
        },
        bpf: BpfProbes {
            xdp: Ok(true),
            map_types: vec![yes("Array"), yes("RingBuf")],
            helpers: vec![yes("bpf_fib_lookup"), yes("bpf_loop")],
            programs: vec![("balancer".to_owned(), Ok(LOADED))],
        },
        interfaces: vec![good_interface()],
        sysctls: sysctls(&[
            ("net.core.bpf_jit_enable", "1"),
            ("net.core.netdev_max_backlog", "1000"),
            ("kernel.unprivileged_bpf_disabled", "2"),
            ("net.ipv4.conf.eth0.forwarding", "1"),
            ("net.ipv6.conf.eth0.forwarding", "1"),
            ("net.ipv4.conf.eth0.arp_ignore", "1"),
            ("net.ipv4.conf.all.arp_announce", "2"),
            ("net.ipv4.conf.all.rp_filter", "0"),
        ]),
        memory: Memory {
            available_bytes: Some(8 << 30),
            maps: Vec::new(),
            possible_cpus: 8,
        },
        sandbox: Sandbox {
            check: Ok(()),
            max_user_namespaces: Some(96_365),
            cgroups: Cgroups {
                v1: BTreeSet::new(),
                v2: names(&["cpu", "memory", "pids"]),
                has_v2: true,
            },
            seccomp_actions: Some("kill_process trap errno allow".to_owned()),
            rootfs: Ok("host".to_owned()),
            landlock: 7,
        },
        idle: Idle {
            driver: Some("intel_idle".to_owned()),
            halt_poll_ns: None,
            exit_us: Some(2),
        },
        decap: good_decap(),
        cpus: 8,
    }
}

fn good_decap() -> Decap {
    let config = "interface = \"eth0\"\nsources = [\"10.77.0.0/24\"]";
    Decap {
        configured: Some(toml::from_str(config).unwrap()),
        pin_path: PathBuf::from("/sys/fs/bpf/warmpath-decap"),
        running: Ok(Some(DecapStatus {
            interface: Some("eth0".to_owned()),
            ifindex: 2,
            mode: "native".to_owned(),
            attached: true,
            addresses: vec!["10.80.0.11".to_owned()],
            sources: vec!["10.77.0.0/24".to_owned()],
            counters: Vec::new(),
        })),
        addresses: Some(BTreeMap::from([(
            "eth0".to_owned(),
            vec!["10.80.0.11".parse().unwrap(), "fe80::b".parse().unwrap()],
        )])),
    }
}

fn good_interface() -> Interface {
    let off = Offload {
        is_on: false,
        is_fixed: false,
    };
    Interface {
        name: "eth0".to_owned(),
        link: Some(Link {
            is_up: true,
            mtu: 9_000,
            max_mtu: Some(9_702),
            ..Link::default()
        }),
        driver: Some("ice".to_owned()),
        xdp_features: Some(0x7f),
        channels: Some(Channels {
            now: 8,
            max: 64,
            is_combined: true,
        }),
        rss_queues: Some((0..8).collect()),
        hashes_ports: BTreeMap::from([("udp4", true), ("udp6", true)]),
        offloads: [
            "large-receive-offload",
            "rx-gro-hw",
            "rx-vlan-offload",
            "generic-receive-offload",
        ]
        .map(|name| (name.to_owned(), off))
        .into(),
        numa_node: Some(0),
        irqs: (0..8)
            .map(|queue| Irq {
                number: 50 + queue,
                name: format!("ice-eth0-TxRx-{queue}"),
                cpus: BTreeSet::from([queue]),
            })
            .collect(),
        ..Interface::default()
    }
}

fn sysctls(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub(super) fn judged(facts: &Facts) -> Report {
    judge(facts, &options(Role::All))
}

pub(super) fn check<'r>(report: &'r Report, name: &str) -> &'r Check {
    let found = report.checks.iter().find(|check| check.check == name);
    found.unwrap_or_else(|| panic!("no check {name} in {report:#?}"))
}

/// Changes the good machine's interface, and expects one check to come out so, with this in its mending command.
#[track_caller]
fn expect(change: impl FnOnce(&mut Interface), name: &str, verdict: Verdict, mend: &str) {
    let mut facts = good();
    change(&mut facts.interfaces[0]);
    let report = judged(&facts);
    let check = check(&report, name);
    assert_eq!(check.verdict, verdict, "{check:?}");
    let command = check.mend.as_deref().unwrap_or_default();
    assert!(command.contains(mend), "{check:?}");
}

fn link(interface: &mut Interface) -> &mut Link {
    interface.link.as_mut().unwrap()
}

#[test]
fn a_good_machine_has_nothing_to_mend() {
    let report = judged(&good());
    let bad: Vec<_> = report
        .checks
        .iter()
        .filter(|check| check.mend.is_some())
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(report.count(Verdict::Ok), report.checks.len());
    assert_eq!(report.worst(), Verdict::Ok);
}

#[test]
fn whatever_is_wrong_has_a_command() {
    let mut facts = good();
    facts.interfaces[0] = Interface {
        name: "eth0".to_owned(),
        ..Interface::default()
    };
    facts.sysctls = sysctls(&[
        ("net.core.bpf_jit_enable", "0"),
        ("net.core.bpf_jit_harden", "2"),
        ("kernel.unprivileged_bpf_disabled", "0"),
        ("net.core.netdev_max_backlog", "10"),
    ]);
    facts.kernel.release = "5.10.0-8-amd64".to_owned();
    facts.kernel.has_btf = false;
    facts.kernel.has_bpffs = Some(false);
    facts.bpf.helpers[0].1 = Ok(false);
    facts.bpf.map_types[0].1 = Err("EPERM".to_owned());
    facts.bpf.programs[0].1 = Err("R1 unbounded memory access".to_owned());
    facts.memory.available_bytes = Some(0);
    facts.sandbox.check = Err("sandboxes need root".to_owned());
    facts.sandbox.max_user_namespaces = Some(0);
    facts.sandbox.cgroups = Cgroups::default();
    facts.sandbox.seccomp_actions = None;
    facts.sandbox.rootfs = Err("it is not built".to_owned());
    facts.sandbox.landlock = 0;
    let report = judged(&facts);
    for check in &report.checks {
        let is_wrong = check.verdict >= Verdict::Warning;
        assert_eq!(check.mend.is_some(), is_wrong, "{check:?}");
    }
    for name in [
        "interface",
        "JIT",
        "helpers",
        "verifier",
        "worker",
        "user namespaces",
        "cgroups",
        "seccomp",
        "root file system",
    ] {
        assert_eq!(check(&report, name).verdict, Verdict::Failure, "{name}");
    }
    for name in [
        "version",
        "BTF",
        "bpffs",
        "unprivileged BPF",
        "JIT hardening",
        "map types",
        "landlock",
    ] {
        assert_eq!(check(&report, name).verdict, Verdict::Warning, "{name}");
    }
    assert_eq!(report.worst(), Verdict::Failure);
}

#[test]
fn a_program_that_is_interpreted_is_a_failure_whatever_the_switch_says() {
    let jit = |is_compiled, switch: Option<&str>| {
        let mut facts = good();
        let loaded = Loaded {
            is_compiled,
            ..LOADED
        };
        facts.bpf.programs[0].1 = Ok(loaded);
        facts.sysctls.remove("net.core.bpf_jit_enable");
        if let Some(switch) = switch {
            facts
                .sysctls
                .extend(sysctls(&[("net.core.bpf_jit_enable", switch)]));
        }
        check(&judged(&facts), "JIT").verdict
    };
    assert_eq!(jit(true, None), Verdict::Ok);
    assert_eq!(jit(true, Some("2")), Verdict::Warning);
    assert_eq!(jit(false, Some("1")), Verdict::Failure);
}

#[test]
fn native_xdp_is_what_runs_or_was_tried_or_is_offered_in_this_order() {
    const NATIVE: &str = "native XDP";
    let attached = |is_native| {
        Some(AttachedXdp {
            is_native,
            program: 7,
        })
    };
    expect(|it| link(it).xdp = attached(true), NATIVE, Verdict::Ok, "");
    expect(
        |it| link(it).xdp = attached(false),
        NATIVE,
        Verdict::Warning,
        "xdpgeneric off",
    );
    expect(
        |it| it.xdp_features = Some(0),
        NATIVE,
        Verdict::Failure,
        "generic",
    );
    expect(
        |it| it.xdp_features = None,
        NATIVE,
        Verdict::Warning,
        "warmpath doctor eth0 --try",
    );
    let refused = |it: &mut Interface| it.trial = Some(Err("EOPNOTSUPP".to_owned()));
    expect(refused, NATIVE, Verdict::Failure, "generic");
    let taken = |it: &mut Interface| {
        it.xdp_features = Some(0);
        it.trial = Some(Ok(()));
    };
    expect(taken, NATIVE, Verdict::Ok, "");
}

#[test]
fn room_for_encapsulation_counts_every_outer_header() {
    const ROOM: &str = "MTU head room";
    expect(|it| link(it).mtu = 1_548, ROOM, Verdict::Ok, "");
    expect(
        |it| link(it).mtu = 1_547,
        ROOM,
        Verdict::Warning,
        "mtu 1548",
    );
    expect(
        |it| link(it).mtu = 1_500,
        ROOM,
        Verdict::Warning,
        "mtu 1548",
    );
    let small = |it: &mut Interface| {
        link(it).mtu = 1_500;
        link(it).max_mtu = Some(1_500);
    };
    expect(small, ROOM, Verdict::Warning, "clients' MTU to 1452");
}

#[test]
fn offloads_that_xdp_does_not_suffer_are_failures() {
    let on = |offload: &'static str, is_fixed: bool| {
        move |it: &mut Interface| {
            let state = Offload {
                is_on: true,
                is_fixed,
            };
            it.offloads.insert(offload.to_owned(), state);
        }
    };
    let lro = "large-receive-offload";
    expect(
        on(lro, false),
        "LRO",
        Verdict::Failure,
        "ethtool -K eth0 lro off",
    );
    expect(
        on("rx-gro-hw", true),
        "hardware GRO",
        Verdict::Warning,
        "--try",
    );
    expect(
        on("rx-vlan-offload", false),
        "VLAN offload",
        Verdict::Warning,
        "rxvlan off",
    );
    expect(on("generic-receive-offload", false), "GRO", Verdict::Ok, "");
    expect(
        |it| it.driver = Some("veth".to_owned()),
        "checksums",
        Verdict::Warning,
        "tx off",
    );
    expect(
        |it| it.offloads.clear(),
        "offloads",
        Verdict::Warning,
        "ethtool",
    );
}

#[test]
fn packets_that_meet_one_cpu_are_spread() {
    let channels = |now, is_combined| Channels {
        now,
        max: 16,
        is_combined,
    };
    let few = |it: &mut Interface| it.channels = Some(channels(1, true));
    expect(
        few,
        "queues",
        Verdict::Warning,
        "ethtool -L eth0 combined 8",
    );
    expect(few, "RSS", Verdict::NotApplicable, "");
    let rx = |it: &mut Interface| it.channels = Some(channels(4, false));
    expect(rx, "queues", Verdict::Warning, "ethtool -L eth0 rx 8");
    let half = |it: &mut Interface| it.rss_queues = Some((0..4).collect());
    expect(half, "RSS", Verdict::Warning, "ethtool -X eth0 equal 8");
    let addresses = |it: &mut Interface| it.hashes_ports = BTreeMap::from([("udp4", false)]);
    expect(
        addresses,
        "RSS fields",
        Verdict::Warning,
        "rx-flow-hash udp4 sdfn",
    );
    let one_cpu = |it: &mut Interface| {
        for irq in &mut it.irqs {
            irq.cpus = BTreeSet::from([3]);
        }
    };
    expect(
        one_cpu,
        "interrupts",
        Verdict::Warning,
        "echo 7 > /proc/irq/57/smp_affinity_list",
    );
    expect(
        |it| it.irqs.clear(),
        "interrupts",
        Verdict::NotApplicable,
        "",
    );
}

#[test]
fn what_stands_above_or_below_is_named() {
    const STACK: &str = "stacking";
    let port_of = |kind: &'static str| {
        move |it: &mut Interface| {
            link(it).master = Some("bond0".to_owned());
            link(it).slave_kind = Some(kind.to_owned());
        }
    };
    expect(
        port_of("bond"),
        STACK,
        Verdict::Failure,
        "warmpath doctor bond0",
    );
    expect(port_of("bridge"), STACK, Verdict::Warning, "nomaster");
    let vlan = |it: &mut Interface| {
        link(it).kind = Some("vlan".to_owned());
        link(it).lower = Some("eth9".to_owned());
    };
    expect(vlan, STACK, Verdict::Warning, "warmpath doctor eth9");
    expect(
        |it| it.uppers = vec!["eth0.5".to_owned()],
        STACK,
        Verdict::Ok,
        "",
    );
    expect(
        |it| link(it).kind = Some("bond".to_owned()),
        STACK,
        Verdict::Ok,
        "",
    );
    expect(
        |it| link(it).is_up = false,
        "interface",
        Verdict::Failure,
        "ip link set dev eth0 up",
    );
}

#[test]
fn sysctls_of_direct_return_are_the_larger_of_all_and_the_interfaces_own() {
    let mut facts = good();
    facts.interfaces[0].name = "eth0.5".to_owned();
    facts.sysctls = sysctls(&[
        ("net.ipv4.conf.eth0.5.arp_ignore", "0"),
        ("net.ipv4.conf.all.arp_ignore", "1"),
        ("net.ipv4.conf.eth0.5.arp_announce", "0"),
        ("net.ipv4.conf.eth0.5.rp_filter", "0"),
        ("net.ipv4.conf.all.rp_filter", "1"),
        ("net.ipv4.conf.eth0.5.forwarding", "0"),
    ]);
    let report = judged(&facts);
    assert_eq!(check(&report, "arp_ignore").verdict, Verdict::Ok);
    assert_eq!(
        check(&report, "arp_announce").mend.as_deref(),
        Some("sysctl -w net.ipv4.conf.eth0/5.arp_announce=2")
    );
    assert_eq!(check(&report, "rp_filter").verdict, Verdict::Warning);
    assert_eq!(
        check(&report, "IPv4 forwarding").mend.as_deref(),
        Some("sysctl -w net.ipv4.conf.eth0/5.forwarding=1")
    );
    assert_eq!(
        check(&report, "IPv6 forwarding").verdict,
        Verdict::NotApplicable
    );
}

#[test]
fn a_role_is_asked_only_for_what_it_needs() {
    let subjects = |role| -> BTreeSet<String> {
        let report = judge(&good(), &options(role));
        report
            .checks
            .into_iter()
            .map(|check| check.subject)
            .collect()
    };
    let balancer = subjects(Role::Balancer);
    assert!(balancer.contains("bpf") && balancer.contains("memory"));
    assert!(!balancer.contains("sandbox"));
    let worker = subjects(Role::Worker);
    assert!(worker.contains("sandbox") && worker.contains("eth0"));
    assert!(!worker.contains("memory"));
}

#[test]
fn tables_are_held_against_free_memory() {
    let mut facts = good();
    facts.memory.maps = vec![crate::maps::MapShape {
        name: "SESSIONS".to_owned(),
        map_type: 2,
        key_size: 4,
        value_size: 64,
        max_entries: 1 << 20,
        flags: 0,
    }];
    for (free, verdict) in [
        (64 << 20, Verdict::Warning),
        (63 << 20, Verdict::Failure),
        (128 << 20, Verdict::Ok),
    ] {
        facts.memory.available_bytes = Some(free);
        let report = judged(&facts);
        let check = check(&report, "tables");
        assert_eq!(check.verdict, verdict, "{check:?}");
        assert!(check.finding.contains("SESSIONS 64 MiB"), "{check:?}");
    }
}

#[test]
fn idle_processors_that_are_slow_to_wake_are_told_of() {
    let judged = |driver: Option<&str>, halt_poll_ns, exit_us| {
        let mut facts = good();
        facts.idle = Idle {
            driver: driver.map(str::to_owned),
            halt_poll_ns,
            exit_us,
        };
        let report = judge(&facts, &options(Role::Worker));
        let check = check(&report, "idle processors");
        (check.verdict, check.mend.is_some())
    };
    assert_eq!(
        judged(Some("haltpoll"), Some(0), Some(1)),
        (Verdict::Warning, true)
    );
    assert_eq!(
        judged(Some("haltpoll"), Some(200_000), Some(1)),
        (Verdict::Ok, false)
    );
    assert_eq!(
        judged(Some("intel_idle"), None, Some(133)),
        (Verdict::Warning, true)
    );
    assert_eq!(
        judged(Some("intel_idle"), None, Some(10)),
        (Verdict::Ok, false)
    );
    assert_eq!(judged(None, None, None), (Verdict::NotApplicable, false));
    let report = judge(&good(), &options(Role::Balancer));
    let of_idle = |it: &&Check| it.check == "idle processors";
    assert!(
        report.checks.iter().find(of_idle).is_none(),
        "no packet waits for a process"
    );
}
