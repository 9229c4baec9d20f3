//! A bond: whether its driver takes a program, which port a packet leaves by, and what state the ports are in.
//!
//! The bonding driver runs a program by handing it on to each port (`bond_xdp_set`, drivers/net/bonding/bond_main.c, since
//! Linux 5.15). It refuses one in a mode in which it could not say which port a packet leaves by (`bond_xdp_check`),
//! and if any port's driver refuses it.

pub(super) mod port;
#[cfg(test)]
mod tests;

use super::interface::{self, NATIVE};
use crate::doctor::{
    Report,
    facts::{Bond, Interface, Link},
    report::Notes,
};

const MODE: &str = "bond mode";
const HASH: &str = "bond hash";
const PORTS: &str = "ports";
/// The modes that choose a port by hash; the others do not look at the hash policy.
const HASHING_MODES: [&str; 2] = ["balance-xor", "802.3ad"];
const ROUND_ROBIN: &str = "balance-rr";
const ACTIVE_BACKUP: &str = "active-backup";
/// The tag that it hashes is mostly not in the packet any more: the hardware has taken it off.
const REFUSED_POLICY: &str = "vlan+srcmac";
/// Linux's own proposal (Documentation/networking/bonding.rst).
const MIIMON_MS: u32 = 100;

pub(super) fn is_bond(link: &Link) -> bool {
    link.kind.as_deref() == Some("bond")
}

/// Its settings and its ports; what their hardware does is judged with them.
pub(super) fn judge(interface: &Interface, link: &Link, report: &mut Report) {
    let name = &interface.name;
    let mut notes = Notes::of(name, report);
    if let Some(bond) = &link.bond {
        judge_mode(interface, bond, &mut notes);
        judge_hash(name, bond, &mut notes);
        judge_monitoring(name, bond, &mut notes);
    } else {
        notes.warning(
            MODE,
            "not known: `ip` does not show it",
            format!("ip -details link show dev {name}"),
        );
    }
    judge_ports(interface, &mut notes);
    for check in ["offloads", "queues"] {
        notes.not_applicable(check, "each port's own");
    }
}

/// Whether it runs programs: what runs or was tried is believed before what can be deduced.
pub(super) fn judge_native(interface: &Interface, link: &Link, notes: &mut Notes<'_>) {
    let is_proven = link.xdp.is_some() || matches!(interface.trial, Some(Ok(())));
    match obstacle(interface, link).filter(|_| !is_proven) {
        Some((finding, mend)) => notes.failure(NATIVE, finding, mend),
        None => interface::judge_native(interface, link, notes),
    }
}

/// Why the bonding driver refuses a program, and the command that mends it.
fn obstacle(interface: &Interface, link: &Link) -> Option<(String, String)> {
    let name = &interface.name;
    let of_settings = link.bond.as_ref().and_then(|bond| {
        if !takes_programs(&bond.mode) {
            let finding = format!("the bonding driver takes no program in mode {}", bond.mode);
            Some((finding, set_mode(interface, ACTIVE_BACKUP)))
        } else if refuses_by_hash(bond) {
            let finding = format!("the bonding driver takes no program with hash {REFUSED_POLICY}");
            Some((finding, set_policy(name)))
        } else {
            None
        }
    });
    let of_ports = || {
        let port = interface.ports.iter().find(|port| port::refuses(port))?;
        let finding = format!("{name} takes a program only if {} does", port.name);
        Some((finding, port::mend(port)))
    };
    of_settings.or_else(of_ports)
}

/// As `bond_xdp_check` has it.
fn takes_programs(mode: &str) -> bool {
    [ROUND_ROBIN, ACTIVE_BACKUP].contains(&mode) || HASHING_MODES.contains(&mode)
}

fn refuses_by_hash(bond: &Bond) -> bool {
    HASHING_MODES.contains(&bond.mode.as_str())
        && bond.xmit_hash_policy.as_deref() == Some(REFUSED_POLICY)
}

fn judge_mode(interface: &Interface, bond: &Bond, notes: &mut Notes<'_>) {
    match bond.mode.as_str() {
        mode if !takes_programs(mode) => notes.failure(
            MODE,
            format!("{mode}: no native XDP (active-backup, balance-xor and 802.3ad have it)"),
            set_mode(interface, ACTIVE_BACKUP),
        ),
        ROUND_ROBIN => notes.warning(
            MODE,
            "balance-rr: packets of one flow leave by all ports in turn, and overtake each other",
            set_mode(interface, "balance-xor"),
        ),
        mode => notes.ok(MODE, mode),
    }
}

fn judge_hash(name: &str, bond: &Bond, notes: &mut Notes<'_>) {
    if !HASHING_MODES.contains(&bond.mode.as_str()) {
        notes.not_applicable(HASH, format!("{} does not hash", bond.mode));
        return;
    }
    match bond.xmit_hash_policy.as_deref() {
        Some(REFUSED_POLICY) => notes.failure(
            HASH,
            format!("{REFUSED_POLICY}: no native XDP with it"),
            set_policy(name),
        ),
        Some("layer2") => notes.ok(
            HASH,
            "layer2: what goes to one worker, or to one router, leaves by one port",
        ),
        Some(policy) => notes.ok(HASH, policy),
        None => notes.warning(
            HASH,
            "not known: `ip` does not show it",
            format!("ip -details link show dev {name}"),
        ),
    }
}

/// A bond that does not look goes on sending by a port whose cable is out.
fn judge_monitoring(name: &str, bond: &Bond, notes: &mut Notes<'_>) {
    const CHECK: &str = "link monitoring";
    match (bond.miimon_ms, bond.arp_interval_ms) {
        (0, 0) => notes.warning(
            CHECK,
            "none: packets go on leaving by a port that has lost its link",
            format!("ip link set dev {name} type bond miimon {MIIMON_MS}"),
        ),
        (0, arp) => notes.ok(CHECK, format!("by ARP, each {arp} ms")),
        (miimon, _) => notes.ok(CHECK, format!("each {miimon} ms")),
    }
}

fn judge_ports(interface: &Interface, notes: &mut Notes<'_>) {
    let name = &interface.name;
    let ports = &interface.ports;
    let with_link = ports.iter().filter(|port| port::has_link(port)).count();
    if ports.is_empty() {
        notes.failure(
            PORTS,
            "none: the bond carries nothing",
            format!("ip link set dev PORT down; ip link set dev PORT master {name}"),
        );
    } else if with_link == 0 {
        notes.failure(
            PORTS,
            format!("none of {} has a link", names(ports)),
            each(ports, |port| format!("ip link set dev {port} up")),
        );
    } else {
        notes.ok(
            PORTS,
            format!(
                "{}; {with_link} of {} with a link",
                names(ports),
                ports.len()
            ),
        );
    }
}

/// The kernel lets the mode be changed only of a bond that is down and has no ports.
fn set_mode(interface: &Interface, mode: &str) -> String {
    let (name, ports) = (&interface.name, &interface.ports);
    let steps = [
        each(ports, |port| format!("ip link set dev {port} nomaster")),
        format!("ip link set dev {name} down"),
        format!("ip link set dev {name} type bond mode {mode}"),
        each(ports, |port| {
            format!("ip link set dev {port} down; ip link set dev {port} master {name}")
        }),
        format!("ip link set dev {name} up"),
    ];
    let steps: Vec<_> = steps.into_iter().filter(|step| !step.is_empty()).collect();
    steps.join("; ")
}

fn set_policy(name: &str) -> String {
    format!("ip link set dev {name} type bond xmit_hash_policy layer3+4")
}

fn names(ports: &[Interface]) -> String {
    let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
    names.join(", ")
}

fn each(ports: &[Interface], command: impl Fn(&str) -> String) -> String {
    let commands: Vec<_> = ports.iter().map(|port| command(&port.name)).collect();
    commands.join("; ")
}
