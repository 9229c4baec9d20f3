//! Ethernet II with up to two VLAN tags (IEEE 802.1Q): a customer's tag, or a service tag and a customer's.
//!
//! A NIC that strips the outer tag (`ethtool -k`: rx-vlan-offload) leaves it out of the frame that XDP sees, and a frame
//! that is sent back would lack it: `warmpath doctor` asks for the offload to be off.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use super::{Family, NotHeaders, Packet};
use crate::{DropReason, NotOurs};

/// Bytes of the header without tags.
pub const HEADER_LEN: u32 = 14;
/// Bytes of a VLAN tag.
pub const TAG_LEN: u32 = 4;
/// VLAN tags that are read at most.
pub const MAX_TAGS: u32 = 2;
/// Covers every place where an IP header may begin.
pub(crate) const IP_OFFSET_MASK: u32 = 0x1f;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// EtherType of a customer's VLAN tag.
pub const TYPE_VLAN: u16 = 0x8100;
/// EtherType of a service provider's VLAN tag (IEEE 802.1ad).
pub const TYPE_SERVICE_VLAN: u16 = 0x88a8;

/// The header without tags.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EthernetHeader {
    /// MAC address of the receiver.
    pub destination: [u8; 6],
    /// MAC address of the sender.
    pub source: [u8; 6],
    /// Protocol of the payload.
    pub ether_type: U16,
}

const _: () = assert!(size_of::<EthernetHeader>() == HEADER_LEN as usize);
const _: () = assert!(HEADER_LEN + MAX_TAGS * TAG_LEN <= IP_OFFSET_MASK);

/// The family of the IP packet in the frame, and where it begins.
#[inline(always)]
pub(crate) fn parse<P: Packet>(packet: &P) -> Result<(Family, u32), NotHeaders> {
    let header: EthernetHeader = packet
        .read(0)
        .ok_or(NotHeaders::Unreadable(DropReason::TruncatedEthernet))?;
    let ether_type = header.ether_type.get();
    match family(ether_type) {
        Some(family) => Ok((family, HEADER_LEN)),
        // VERIFIER: see `FRAME_MAX`.
        None if is_tag(ether_type) => {
            tagged(packet).map(|(family, offset)| (family, offset & IP_OFFSET_MASK))
        }
        None => Err(NotHeaders::Other(NotOurs::NotIp)),
    }
}

/// What is behind the first tag, and behind the second one if there is one.
#[inline(never)]
fn tagged<P: Packet>(packet: &P) -> Result<(Family, u32), NotHeaders> {
    let mut offset = HEADER_LEN;
    for _ in 0..MAX_TAGS {
        // Behind priority and VLAN id.
        let ether_type: U16 = packet
            .read(offset + 2)
            .ok_or(NotHeaders::Unreadable(DropReason::TruncatedEthernet))?;
        offset += TAG_LEN;
        match family(ether_type.get()) {
            Some(family) => return Ok((family, offset)),
            None if is_tag(ether_type.get()) => {}
            None => break,
        }
    }
    Err(NotHeaders::Other(NotOurs::NotIp))
}

#[inline(always)]
const fn family(ether_type: u16) -> Option<Family> {
    match ether_type {
        TYPE_IPV4 => Some(Family::V4),
        TYPE_IPV6 => Some(Family::V6),
        _ => None,
    }
}

#[inline(always)]
const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, TYPE_VLAN | TYPE_SERVICE_VLAN)
}
