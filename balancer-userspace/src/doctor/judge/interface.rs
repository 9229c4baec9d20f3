//! Whether the interface is there, and whether its driver runs XDP programs.

use super::bond;
use crate::doctor::{
    Report,
    facts::{Interface, Link},
    report::Notes,
};

/// `enum netdev_xdp_act`, linux/netdev.h.
const XDP_ACT: [(u64, &str); 7] = [
    (1, "basic"),
    (1 << 1, "redirect"),
    (1 << 2, "redirect target"),
    (1 << 3, "AF_XDP zero copy"),
    (1 << 4, "hardware offload"),
    (1 << 5, "multi-buffer"),
    (1 << 6, "multi-buffer redirect target"),
];
pub(super) const XDP_BASIC: u64 = 1;
/// The check that a driver's word decides.
pub(super) const NATIVE: &str = "native XDP";
/// Interfaces that stand on others and run no program in a driver of their own.
const UPPER_KINDS: [&str; 7] = [
    "vlan", "bridge", "macvlan", "ipvlan", "vxlan", "team", "dummy",
];

pub(super) fn judge(interface: &Interface, report: &mut Report) {
    let name = &interface.name;
    let mut notes = Notes::of(name, report);
    let Some(link) = &interface.link else {
        note_missing(&mut notes);
        return;
    };
    if link.is_up {
        notes.ok("interface", format!("up, MTU {}", link.mtu));
    } else {
        notes.failure("interface", "down", format!("ip link set dev {name} up"));
    }
    judge_driver(interface, link, &mut notes);
    if bond::is_bond(link) {
        bond::judge_native(interface, link, &mut notes);
    } else {
        judge_native(interface, link, &mut notes);
    }
    judge_stack(interface, link, &mut notes);
}

pub(super) fn note_missing(notes: &mut Notes<'_>) {
    notes.failure(
        "interface",
        "there is none of this name, or `ip` (iproute2) is not installed",
        "ip -brief link show",
    );
}

pub(super) fn judge_driver(interface: &Interface, link: &Link, notes: &mut Notes<'_>) {
    match (&interface.driver, &link.kind) {
        (Some(driver), _) => notes.ok("driver", driver.clone()),
        (None, Some(kind)) => notes.ok("driver", format!("{kind} (by its kind)")),
        (None, None) => notes.warning(
            "driver",
            "not known; offloads and queues cannot be asked",
            "apt-get install ethtool",
        ),
    }
}

pub(super) fn judge_native(interface: &Interface, link: &Link, notes: &mut Notes<'_>) {
    let name = &interface.name;
    if let Some(xdp) = &link.xdp {
        if xdp.is_native {
            notes.ok(
                NATIVE,
                format!("program {} runs in the driver", xdp.program),
            );
        } else {
            notes.warning(
                NATIVE,
                format!("program {} runs in the slow generic path", xdp.program),
                format!("ip link set dev {name} xdpgeneric off; then attach natively (mode = \"native\")"),
            );
        }
        return;
    }
    let generic = format!(
        "use an interface whose driver has XDP; or, slow: mode = \"generic\" for {name} in balancer.toml"
    );
    match (&interface.trial, interface.xdp_features) {
        (Some(Ok(())), _) => notes.ok(NATIVE, "a program was attached and taken off again"),
        (Some(Err(problem)), _) => notes.failure(
            NATIVE,
            problem.clone(),
            format!(
                "ip link set dev {name} mtu 1500 (and, of a veth, at its peer); else {generic}"
            ),
        ),
        (None, Some(features)) if features & XDP_BASIC != 0 => {
            notes.ok(NATIVE, format!("the driver offers {}", named(features)));
        }
        (None, Some(_)) => notes.failure(NATIVE, "the driver offers none", generic),
        (None, None) => notes.warning(
            NATIVE,
            "this kernel (before 6.3) cannot tell",
            format!("warmpath doctor {name} --try"),
        ),
    }
}

pub(super) fn named(features: u64) -> String {
    let names: Vec<_> = XDP_ACT
        .iter()
        .filter(|(bit, _)| features & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    names.join(", ")
}

/// What is above and below.
fn judge_stack(interface: &Interface, link: &Link, notes: &mut Notes<'_>) {
    const CHECK: &str = "stacking";
    if let Some(master) = &link.master {
        match link.slave_kind.as_deref() {
            Some("bond" | "team") => notes.failure(
                CHECK,
                format!("a port of {master}: packets of one flow may come by another port"),
                format!("warmpath doctor {master}, and attach there"),
            ),
            kind => notes.warning(
                CHECK,
                format!(
                    "a port of {} {master}: it gets only what the program passes",
                    kind.unwrap_or("its master")
                ),
                format!(
                    "ip link set dev {} nomaster, unless that is wanted",
                    interface.name
                ),
            ),
        }
        return;
    }
    match link.kind.as_deref() {
        Some(kind) if UPPER_KINDS.contains(&kind) => {
            let lower = link.lower.as_deref().unwrap_or("the interface below it");
            notes.warning(
                CHECK,
                format!("a {kind}: it stands on another interface, where packets come in first"),
                format!("warmpath doctor {lower}, and attach there"),
            );
        }
        _ if bond::is_bond(link) && interface.uppers.is_empty() => {
            notes.ok(CHECK, "on its ports, to which it hands the program on");
        }
        _ if interface.uppers.is_empty() => notes.ok(CHECK, "alone: no master, nothing on top"),
        _ => notes.ok(
            CHECK,
            format!(
                "{} on top: they get what the program passes",
                interface.uppers.join(", ")
            ),
        ),
    }
}
