//! Mode `l2`: the frame goes to the worker's MAC address as it is, but for its hop limit. The worker has the VIP on `lo`
//! and answers the client itself (DSR).

use super::{exit::Exit, hop_limit};
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
) -> Result<Option<u32>, DropReason> {
    let network = &arrival.headers.network;
    let exit = Exit::configured(packet, placement.info, tables)?;
    hop_limit::lower(packet, arrival.config, network.family, network.offset)?;
    packet.write(0, exit.macs).ok_or(DropReason::NotRewritten)?;
    Ok(exit.redirect)
}
