//! Bonds as they should be, and as they are found.

use crate::doctor::{
    Check, Facts, Report, Verdict,
    facts::{AttachedXdp, Bond, Channels, Interface, Link, Offload},
    judge::tests::{good, judged},
};

/// The good machine, with its network card and another like it in a bond.
fn bonded() -> Facts {
    let mut facts = good();
    let card = facts.interfaces.remove(0);
    let port = |name: &str| {
        let mut port = card.clone();
        port.name = name.to_owned();
        link(&mut port).master = Some("bond0".to_owned());
        link(&mut port).slave_kind = Some("bond".to_owned());
        port
    };
    facts.interfaces.push(Interface {
        name: "bond0".to_owned(),
        link: Some(Link {
            is_up: true,
            mtu: 9_000,
            kind: Some("bond".to_owned()),
            bond: Some(Bond {
                mode: "802.3ad".to_owned(),
                xmit_hash_policy: Some("layer3+4".to_owned()),
                miimon_ms: 100,
                arp_interval_ms: 0,
            }),
            ..Link::default()
        }),
        driver: Some("bonding".to_owned()),
        xdp_features: Some(0x7f),
        ports: vec![port("eth0"), port("eth1")],
        ..Interface::default()
    });
    facts
}

fn link(interface: &mut Interface) -> &mut Link {
    interface.link.as_mut().unwrap()
}

fn settings(bond: &mut Interface) -> &mut Bond {
    link(bond).bond.as_mut().unwrap()
}

fn check<'r>(report: &'r Report, subject: &str, name: &str) -> &'r Check {
    let is_it = |check: &&Check| check.subject == subject && check.check == name;
    let found = report.checks.iter().find(is_it);
    found.unwrap_or_else(|| panic!("no check {subject} {name} in {report:#?}"))
}

/// Changes the bond, and expects one check to come out so, with this in its mending command.
#[track_caller]
fn expect(
    change: impl FnOnce(&mut Interface),
    (subject, name): (&str, &str),
    verdict: Verdict,
    mend: &str,
) {
    let mut facts = bonded();
    change(&mut facts.interfaces[0]);
    let report = judged(&facts);
    let check = check(&report, subject, name);
    assert_eq!(check.verdict, verdict, "{check:?}");
    let command = check.mend.as_deref().unwrap_or_default();
    assert!(command.contains(mend), "{check:?}");
    for check in &report.checks {
        let is_wrong = check.verdict >= Verdict::Warning;
        assert_eq!(check.mend.is_some(), is_wrong, "{check:?}");
    }
}

#[test]
fn a_good_bond_has_nothing_to_mend_and_its_ports_are_judged_as_hardware() {
    let report = judged(&bonded());
    let of = |subject: &str| -> Vec<&Check> {
        let checks = report.checks.iter();
        checks.filter(|check| check.subject == subject).collect()
    };
    for subject in ["bond0", "eth0", "eth1"] {
        let checks = of(subject);
        assert!(
            checks.iter().all(|check| check.mend.is_none()),
            "{checks:#?}"
        );
    }
    for port in ["eth0", "eth1"] {
        for name in [
            "interface",
            "driver",
            "native XDP",
            "LRO",
            "queues",
            "RSS",
            "interrupts",
        ] {
            assert_eq!(
                check(&report, port, name).verdict,
                Verdict::Ok,
                "{port} {name}"
            );
        }
        // The bond has the addresses.
        assert!(
            of(port)
                .iter()
                .all(|check| !check.check.contains("forwarding"))
        );
    }
    assert_eq!(
        check(&report, "bond0", "MTU head room").verdict,
        Verdict::Ok
    );
    assert_eq!(
        check(&report, "bond0", "queues").verdict,
        Verdict::NotApplicable
    );
    let ports = &check(&report, "bond0", "ports").finding;
    assert_eq!(ports, "eth0, eth1; 2 of 2 with a link");
}

#[test]
fn a_mode_is_good_if_the_kernel_says_which_port_a_packet_leaves_by() {
    const MODE: (&str, &str) = ("bond0", "bond mode");
    const NATIVE: (&str, &str) = ("bond0", "native XDP");
    let mode = |mode: &'static str| {
        move |it: &mut Interface| {
            settings(it).mode = mode.to_owned();
            it.xdp_features = Some(0x7f);
        }
    };
    for good in ["active-backup", "balance-xor", "802.3ad"] {
        expect(mode(good), MODE, Verdict::Ok, "");
        expect(mode(good), NATIVE, Verdict::Ok, "");
    }
    expect(
        mode("balance-rr"),
        MODE,
        Verdict::Warning,
        "mode balance-xor",
    );
    expect(mode("balance-rr"), NATIVE, Verdict::Ok, "");
    let whole = "ip link set dev eth0 nomaster; ip link set dev eth1 nomaster; ip link set dev bond0 down; \
                 ip link set dev bond0 type bond mode active-backup; \
                 ip link set dev eth0 down; ip link set dev eth0 master bond0; \
                 ip link set dev eth1 down; ip link set dev eth1 master bond0; ip link set dev bond0 up";
    for bad in ["broadcast", "balance-tlb", "balance-alb"] {
        expect(mode(bad), MODE, Verdict::Failure, whole);
        expect(mode(bad), NATIVE, Verdict::Failure, whole);
    }
    let unknown = |it: &mut Interface| link(it).bond = None;
    expect(
        unknown,
        MODE,
        Verdict::Warning,
        "ip -details link show dev bond0",
    );
}

#[test]
fn a_hash_of_what_the_hardware_takes_off_is_refused_in_the_modes_that_hash() {
    const HASH: (&str, &str) = ("bond0", "bond hash");
    let hash = |mode: &'static str, policy: Option<&'static str>| {
        move |it: &mut Interface| {
            settings(it).mode = mode.to_owned();
            settings(it).xmit_hash_policy = policy.map(str::to_owned);
        }
    };
    let mend = "ip link set dev bond0 type bond xmit_hash_policy layer3+4";
    for mode in ["802.3ad", "balance-xor"] {
        let bad = Some("vlan+srcmac");
        expect(hash(mode, bad), HASH, Verdict::Failure, mend);
        expect(
            hash(mode, bad),
            ("bond0", "native XDP"),
            Verdict::Failure,
            mend,
        );
        expect(hash(mode, Some("layer2")), HASH, Verdict::Ok, "");
        expect(hash(mode, None), HASH, Verdict::Warning, "ip -details");
    }
    let unused = || hash("active-backup", Some("vlan+srcmac"));
    expect(unused(), HASH, Verdict::NotApplicable, "");
    expect(unused(), ("bond0", "native XDP"), Verdict::Ok, "");
}

#[test]
fn a_bond_that_does_not_look_at_its_links_is_told_to() {
    const LOOK: (&str, &str) = ("bond0", "link monitoring");
    let by = |miimon_ms, arp_interval_ms| {
        move |it: &mut Interface| {
            let bond = settings(it);
            (bond.miimon_ms, bond.arp_interval_ms) = (miimon_ms, arp_interval_ms);
        }
    };
    expect(by(0, 0), LOOK, Verdict::Warning, "miimon 100");
    expect(by(0, 250), LOOK, Verdict::Ok, "");
    expect(by(50, 0), LOOK, Verdict::Ok, "");
}

#[test]
fn ports_may_be_none_or_dead_or_in_the_way_of_a_program() {
    const PORTS: (&str, &str) = ("bond0", "ports");
    expect(
        |it| it.ports.clear(),
        PORTS,
        Verdict::Failure,
        "master bond0",
    );
    let dead = |it: &mut Interface| {
        link(&mut it.ports[0]).lacks_carrier = true;
        link(&mut it.ports[1]).is_up = false;
    };
    expect(dead, PORTS, Verdict::Failure, "ip link set dev eth1 up");
    expect(
        dead,
        ("eth0", "interface"),
        Verdict::Warning,
        "ethtool eth0",
    );
    expect(
        dead,
        ("eth1", "interface"),
        Verdict::Warning,
        "ip link set dev eth1 up",
    );
    let half = |it: &mut Interface| link(&mut it.ports[1]).lacks_carrier = true;
    expect(half, PORTS, Verdict::Ok, "");
    let gone = |it: &mut Interface| it.ports[1].link = None;
    expect(gone, ("eth1", "interface"), Verdict::Failure, "ip -brief");

    let without = |it: &mut Interface| it.ports[1].xdp_features = Some(0);
    for subject in ["bond0", "eth1"] {
        let native = (subject, "native XDP");
        expect(
            without,
            native,
            Verdict::Failure,
            "ip link set dev eth1 nomaster",
        );
    }
    expect(without, ("eth0", "native XDP"), Verdict::Ok, "");
    let own = |is_native| {
        move |it: &mut Interface| {
            link(&mut it.ports[0]).xdp = Some(AttachedXdp {
                is_native,
                program: 9,
            });
        }
    };
    expect(
        own(true),
        ("eth0", "native XDP"),
        Verdict::Failure,
        "dev eth0 xdp off",
    );
    expect(
        own(false),
        ("bond0", "native XDP"),
        Verdict::Failure,
        "dev eth0 xdpgeneric off",
    );
    let old_kernel = |it: &mut Interface| it.ports[0].xdp_features = None;
    expect(
        old_kernel,
        ("eth0", "native XDP"),
        Verdict::Warning,
        "doctor bond0 --try",
    );
}

#[test]
fn what_runs_or_was_tried_is_believed_before_what_is_deduced() {
    let proven = |it: &mut Interface| {
        it.ports[1].xdp_features = Some(0);
        it.trial = Some(Ok(()));
    };
    expect(proven, ("bond0", "native XDP"), Verdict::Ok, "");
    let runs = |it: &mut Interface| {
        link(it).xdp = Some(AttachedXdp {
            is_native: true,
            program: 7,
        });
    };
    expect(runs, ("bond0", "native XDP"), Verdict::Ok, "");
    expect(runs, ("eth1", "native XDP"), Verdict::Ok, "");
}

#[test]
fn a_ports_hardware_is_mended_at_the_port() {
    let few = |it: &mut Interface| {
        it.ports[1].channels = Some(Channels {
            now: 1,
            max: 64,
            is_combined: true,
        });
    };
    expect(
        few,
        ("eth1", "queues"),
        Verdict::Warning,
        "ethtool -L eth1 combined 8",
    );
    expect(few, ("eth0", "queues"), Verdict::Ok, "");
    let merging = |it: &mut Interface| {
        let on = Offload {
            is_on: true,
            is_fixed: false,
        };
        let offloads = &mut it.ports[0].offloads;
        offloads.insert("large-receive-offload".to_owned(), on);
    };
    expect(
        merging,
        ("eth0", "LRO"),
        Verdict::Failure,
        "ethtool -K eth0 lro off",
    );
}
