//! The way out: by which interface.

use crate::{DropReason, Packet, Tables};

/// The interface to redirect a packet to that leaves by `ifindex`; `None` is the one it came in by, as 0 is.
///
/// # Errors
/// It is no port.
#[inline(always)]
pub(super) fn redirect<P: Packet, T: Tables>(
    packet: &P,
    ifindex: u32,
    tables: &T,
) -> Result<Option<u32>, DropReason> {
    let redirect = (ifindex != 0 && ifindex != packet.ingress_ifindex()).then_some(ifindex);
    if redirect.is_some_and(|ifindex| !tables.redirect(ifindex)) {
        return Err(DropReason::NoPort);
    }
    Ok(redirect)
}
