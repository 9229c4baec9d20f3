//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors about packets that a worker sent from a VIP. Which worker that was, is
//! for `route::icmp` to find out from the beginning of the packet that the error quotes.

use super::{Family, Headers, Network, NotHeaders, Packet};
use crate::{DropReason, NotOurs};

/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;
/// Bytes of the header; what an error quotes follows.
pub const HEADER_LEN: u32 = 8;

/// ICMP's number in `family`.
#[inline(always)]
#[must_use]
pub const fn protocol(family: Family) -> u8 {
    match family {
        Family::V4 => PROTOCOL_ICMP,
        Family::V6 => PROTOCOL_ICMPV6,
    }
}

/// Lets errors through; all else, as echo requests, is the kernel's.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, network: &Network) -> Result<Headers, NotHeaders> {
    let bad = network.malformed(DropReason::BadIcmp);
    if network.payload_len < HEADER_LEN || network.is_fragment {
        return Err(bad);
    }
    let [kind, _]: [u8; 2] = packet.read(network.payload_offset).ok_or(bad)?;
    if !is_error(network.family, kind) {
        return Err(NotHeaders::Other(NotOurs::NotVip));
    }
    Ok(Headers {
        network: *network,
        source_port: 0,
        destination_port: 0,
    })
}

#[inline(always)]
const fn is_error(family: Family, kind: u8) -> bool {
    match family {
        // Destination unreachable (which has "fragmentation needed"), time exceeded, parameter problem.
        Family::V4 => matches!(kind, 3 | 11 | 12),
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        Family::V6 => matches!(kind, 1..=4),
    }
}
