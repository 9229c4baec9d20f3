//! A port of a bond: it carries the packets, and runs the program that the bond is given.

use crate::doctor::{
    Report,
    facts::Interface,
    judge::interface::{self, NATIVE, XDP_BASIC},
    report::Notes,
};

/// State, driver and program; queues and offloads are judged as of any hardware.
pub(in crate::doctor::judge) fn judge(port: &Interface, bond: &Interface, report: &mut Report) {
    let name = &port.name;
    let mut notes = Notes::of(name, report);
    let Some(link) = &port.link else {
        interface::note_missing(&mut notes);
        return;
    };
    if !link.is_up {
        notes.warning("interface", "down", format!("ip link set dev {name} up"));
    } else if link.lacks_carrier {
        notes.warning(
            "interface",
            "up, without a link: the cable, or what is at its other end",
            format!("ethtool {name}"),
        );
    } else {
        notes.ok("interface", format!("up, MTU {}", link.mtu));
    }
    interface::judge_driver(port, link, &mut notes);
    judge_native(port, bond, &mut notes);
    notes.ok("stacking", format!("a port of {}", bond.name));
}

fn judge_native(port: &Interface, bond: &Interface, notes: &mut Notes<'_>) {
    let of_bond = bond.link.as_ref().and_then(|link| link.xdp.as_ref());
    let own = port.link.as_ref().and_then(|link| link.xdp.as_ref());
    match (of_bond, own, port.xdp_features) {
        (Some(xdp), ..) if xdp.is_native => notes.ok(
            NATIVE,
            format!(
                "program {} of {} runs in the driver",
                xdp.program, bond.name
            ),
        ),
        (_, Some(xdp), _) => notes.failure(
            NATIVE,
            format!(
                "program {} is attached to the port itself: {} takes none as long as it is",
                xdp.program, bond.name
            ),
            mend(port),
        ),
        (_, None, Some(features)) if features & XDP_BASIC != 0 => notes.ok(
            NATIVE,
            format!("the driver offers {}", interface::named(features)),
        ),
        (_, None, Some(_)) => notes.failure(
            NATIVE,
            format!("the driver offers none, so {} takes none", bond.name),
            mend(port),
        ),
        (_, None, None) => notes.warning(
            NATIVE,
            "this kernel (before 6.3) cannot tell",
            format!("warmpath doctor {} --try", bond.name),
        ),
    }
}

/// Whether the bond takes no program because of this port.
pub(super) fn refuses(port: &Interface) -> bool {
    let has_own = port.link.as_ref().is_some_and(|link| link.xdp.is_some());
    let offers_none = |features| features & XDP_BASIC == 0;
    has_own || port.xdp_features.is_some_and(offers_none)
}

/// What ends that.
pub(super) fn mend(port: &Interface) -> String {
    let name = &port.name;
    let own = port.link.as_ref().and_then(|link| link.xdp.as_ref());
    match own {
        Some(xdp) if xdp.is_native => format!("ip link set dev {name} xdp off"),
        Some(_) => format!("ip link set dev {name} xdpgeneric off"),
        None => format!("ip link set dev {name} nomaster, and a port whose driver has XDP instead"),
    }
}

/// Whether packets can come and go.
pub(super) fn has_link(port: &Interface) -> bool {
    let link = port.link.as_ref();
    link.is_some_and(|link| link.is_up && !link.lacks_carrier)
}
