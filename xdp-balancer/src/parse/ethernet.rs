//! Ethernet II.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use super::{Family, NotHeaders, Packet};
use crate::{DropReason, NotOurs};

/// Bytes of the header.
pub const HEADER_LEN: u32 = 14;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;

/// The header.
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

/// The family of the IP packet in the frame, and where it begins.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P) -> Result<(Family, u32), NotHeaders> {
    let header: EthernetHeader = packet
        .read(0)
        .ok_or(NotHeaders::Unreadable(DropReason::TruncatedEthernet))?;
    match header.ether_type.get() {
        TYPE_IPV4 => Ok((Family::V4, HEADER_LEN)),
        _ => Err(NotHeaders::Other(NotOurs::NotIp)),
    }
}
