//! Mode `l2`: the frame goes to the worker's MAC address as it is, but for its hop limit. The worker has the VIP on `lo`
//! and answers the client itself (DSR).

use super::{Unsent, exit, hop_limit};
use crate::{DropReason, Packet, Tables, balance::Arrival, route::Placement};

/// Rewrites the frame for the worker of `placement`; returns the interface to redirect it to, if it is another one.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub(super) fn rewrite<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    placement: &Placement<'_>,
    tables: &T,
) -> Result<Option<u32>, Unsent> {
    let network = &arrival.headers.network;
    let redirect = exit::redirect(packet, placement.info.ifindex, tables)?;
    hop_limit::lower(packet, arrival.config, network.family, network.offset)?;
    // Receiver and sender lie in the row as they lie in the frame.
    let macs = [placement.info.dst_mac, placement.info.src_mac];
    packet.write(0, macs).ok_or(DropReason::NotRewritten)?;
    Ok(redirect)
}
