//! MTU, and what the hardware does to packets before the program sees them or after.

use crate::doctor::{Report, facts::Interface, report::Notes};

/// Bytes that each way of encapsulation puts before a packet: an outer header, and UDP with GUE's own.
const ENCAPSULATIONS: [(&str, u32); 4] = [
    ("ipip over IPv4", 20),
    ("gue over IPv4", 28),
    ("ipip over IPv6", 40),
    ("gue over IPv6", 48),
];

/// What the hardware does.
pub(super) fn judge(interface: &Interface, report: &mut Report) {
    let mut notes = Notes::of(&interface.name, report);
    if interface.offloads.is_empty() {
        notes.warning("offloads", "cannot be asked", "apt-get install ethtool");
        return;
    }
    judge_merging(interface, &mut notes);
    judge_checksums(interface, &mut notes);
    judge_vlan(interface, &mut notes);
}

/// Room for encapsulation on top of the largest packet that comes for a VIP.
pub(super) fn judge_mtu(interface: &Interface, vip_mtu: u32, report: &mut Report) {
    const CHECK: &str = "MTU head room";
    let name = &interface.name;
    let Some(link) = &interface.link else {
        return;
    };
    let mut notes = Notes::of(name, report);
    let fits = |extra: u32| vip_mtu.saturating_add(extra) <= link.mtu;
    let (yes, no): (Vec<_>, Vec<_>) = ENCAPSULATIONS
        .into_iter()
        .partition(|(_, extra)| fits(*extra));
    let list = |ways: &[(&str, u32)]| {
        let words: Vec<_> = ways
            .iter()
            .map(|(way, extra)| format!("{way} (+{extra})"))
            .collect();
        words.join(", ")
    };
    let Some((_, most)) = no.last() else {
        notes.ok(
            CHECK,
            format!("{} holds {vip_mtu} + {}", link.mtu, list(&yes)),
        );
        return;
    };
    let wanted = vip_mtu.saturating_add(*most);
    let mend = if link.max_mtu.is_none_or(|max| wanted <= max) {
        format!("ip link set dev {name} mtu {wanted} (and at the switch and the workers)")
    } else {
        format!(
            "lower the clients' MTU to {}",
            link.mtu.saturating_sub(*most)
        )
    };
    notes.warning(
        CHECK,
        format!(
            "{} does not hold {vip_mtu} + {}; larger packets are answered with packet-too-big (forward = \"l2\" needs no room)",
            link.mtu,
            list(&no)
        ),
        mend,
    );
}

/// LRO makes packets that no program may be shown; drivers refuse XDP while it is on.
fn judge_merging(interface: &Interface, notes: &mut Notes<'_>) {
    let name = &interface.name;
    for (check, offload, word) in [
        ("LRO", "large-receive-offload", "lro"),
        ("hardware GRO", "rx-gro-hw", "rx-gro-hw"),
    ] {
        match interface.offloads.get(offload) {
            None => notes.not_applicable(check, "the driver has none"),
            Some(state) if !state.is_on => notes.ok(check, "off"),
            Some(state) if state.is_fixed => notes.warning(
                check,
                "on, and it cannot be switched off from here; the driver may refuse a program",
                format!("warmpath doctor {name} --try"),
            ),
            Some(_) => notes.failure(
                check,
                "on: packets are merged before the program sees them, or the driver refuses it",
                format!("ethtool -K {name} {word} off"),
            ),
        }
    }
    if interface
        .offloads
        .get("generic-receive-offload")
        .is_some_and(|state| state.is_on)
    {
        notes.ok(
            "GRO",
            "on: it works behind the program, on what that passes",
        );
    } else {
        notes.ok("GRO", "off");
    }
}

fn judge_checksums(interface: &Interface, notes: &mut Notes<'_>) {
    const CHECK: &str = "checksums";
    let name = &interface.name;
    let is_on = |offload| {
        interface
            .offloads
            .get(offload)
            .is_some_and(|state| state.is_on)
    };
    let is_veth = interface.driver.as_deref() == Some("veth")
        || interface
            .link
            .as_ref()
            .is_some_and(|link| link.kind.as_deref() == Some("veth"));
    if is_veth {
        // A sender on this host leaves the sum to hardware that its packets never meet.
        notes.warning(
            CHECK,
            "a veth: what a sender on its other end leaves to offload is never summed",
            format!(
                "ethtool -K {name} tx off, and the same at its peer, in the sender's namespace"
            ),
        );
    } else if is_on("rx-checksumming") {
        notes.ok(
            CHECK,
            "checked by the hardware; packets come with whole sums",
        );
    } else {
        notes.ok(
            CHECK,
            "checked by who receives; packets come with whole sums",
        );
    }
}

/// A tag that the hardware takes off is not in the bytes that the program forwards.
fn judge_vlan(interface: &Interface, notes: &mut Notes<'_>) {
    let name = &interface.name;
    match interface.offloads.get("rx-vlan-offload") {
        Some(state) if state.is_on => notes.warning(
            "VLAN offload",
            "tags are taken off before the program: tagged packets would be forwarded untagged",
            format!("ethtool -K {name} rxvlan off, if packets for VIPs come tagged"),
        ),
        Some(_) => notes.ok("VLAN offload", "off: the program sees tags"),
        None => notes.not_applicable("VLAN offload", "the driver has none"),
    }
}
