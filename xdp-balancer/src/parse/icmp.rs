//! ICMP (RFC 792) and ICMPv6 (RFC 4443): errors about packets that a worker sent from a VIP. Which worker that was, is
//! for `route::icmp` to find out from the beginning of the packet that the error quotes.

use zerocopy::network_endian::U16;

use super::{
    Family, Headers, Network, NotHeaders, Packet,
    ipv4::{self, Ipv4Header},
    ipv6::{self, Ipv6Header},
    transport,
};
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

/// What an error quotes: a packet that was sent from here, as far as it is there.
#[derive(Clone, Copy)]
pub(crate) struct Quoted {
    /// Where its addresses begin, the sender's first.
    pub(crate) addresses: u32,
    /// UDP or TCP.
    pub(crate) protocol: u8,
    /// Port that it was sent from.
    pub(crate) source_port: u16,
    /// Port that it was sent to.
    pub(crate) destination_port: u16,
    /// Where its UDP or TCP header begins.
    pub(crate) transport: u32,
}

/// Why nothing is known of the packet that an error quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotQuoted {
    /// It is neither UDP nor TCP.
    Other,
    /// It is not the first fragment, so it has no ports.
    NoPorts,
    /// It is no packet, or not enough of one.
    Bad,
}

/// Reads the packet of `family` that an error quotes at `start` of the frame; the error ends at `end`.
#[inline(always)]
pub(crate) fn quoted<P: Packet>(
    packet: &P,
    family: Family,
    start: u32,
    end: u32,
) -> Result<Quoted, NotQuoted> {
    let (addresses, protocol, transport) = match family {
        Family::V4 => quoted_v4(packet, start)?,
        Family::V6 => quoted_v6(packet, start)?,
    };
    // At least eight bytes of the payload are quoted (RFC 792), which hold both ports.
    if !transport::is_read(protocol) {
        return Err(NotQuoted::Other);
    }
    if transport + 8 > end {
        return Err(NotQuoted::Bad);
    }
    let [source_port, destination_port]: [U16; 2] = packet.read(transport).ok_or(NotQuoted::Bad)?;
    Ok(Quoted {
        addresses,
        protocol,
        source_port: source_port.get(),
        destination_port: destination_port.get(),
        transport,
    })
}

/// Where the addresses begin, the protocol, and where its header begins.
#[inline(always)]
fn quoted_v4<P: Packet>(packet: &P, start: u32) -> Result<(u32, u8, u32), NotQuoted> {
    let header: Ipv4Header = packet.read(start).ok_or(NotQuoted::Bad)?;
    let header_len = u32::from(header.version_and_len & 0x0f) * 4;
    if header.version_and_len >> 4 != 4 || header_len < ipv4::HEADER_LEN {
        return Err(NotQuoted::Bad);
    }
    if header.fragment.get() & ipv4::FRAGMENT_OFFSET != 0 {
        return Err(NotQuoted::NoPorts);
    }
    Ok((start + 12, header.protocol, start + header_len))
}

/// As [`quoted_v4`]. Of the extension headers only the fragment header is looked behind: what workers send has no other.
#[inline(always)]
fn quoted_v6<P: Packet>(packet: &P, start: u32) -> Result<(u32, u8, u32), NotQuoted> {
    let header: Ipv6Header = packet.read(start).ok_or(NotQuoted::Bad)?;
    let [version_and_class, ..] = header.version_class_flow;
    if version_and_class >> 4 != 6 {
        return Err(NotQuoted::Bad);
    }
    let (addresses, behind) = (start + 8, start + ipv6::HEADER_LEN);
    if header.next_header != ipv6::FRAGMENT {
        return Ok((addresses, header.next_header, behind));
    }
    let [next_header, _, high, low]: [u8; 4] = packet.read(behind).ok_or(NotQuoted::Bad)?;
    if u16::from_be_bytes([high, low]) & ipv6::FRAGMENT_OFFSET != 0 {
        return Err(NotQuoted::NoPorts);
    }
    Ok((addresses, next_header, behind + ipv6::FRAGMENT_LEN))
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
