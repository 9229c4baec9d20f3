//! Mode `l2`: the frame goes to the worker's MAC address as it is. The worker has the VIP on `lo` and
//! answers the client itself (DSR).

use crate::{DropReason, Outcome, Packet, Tables, route::Placement};

/// Sends the frame to the worker of `placement`.
#[inline(always)]
pub(super) fn send<P: Packet, T: Tables>(
    packet: &mut P,
    placement: &Placement<'_>,
    tables: &T,
) -> Outcome {
    let ifindex = placement.info.ifindex;
    let redirect = (ifindex != 0 && ifindex != packet.ingress_ifindex()).then_some(ifindex);
    if redirect.is_some_and(|ifindex| !tables.redirect(ifindex)) {
        return Outcome::Dropped(DropReason::NoPort);
    }
    // Receiver and sender lie in the row as they lie in the frame.
    let macs = [placement.info.dst_mac, placement.info.src_mac];
    match packet.write(0, macs) {
        Some(()) => Outcome::Routed {
            rule: placement.rule,
            redirect,
        },
        None => Outcome::Dropped(DropReason::NotRewritten),
    }
}
