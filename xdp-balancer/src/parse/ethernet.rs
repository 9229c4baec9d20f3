//! Ethernet II. A VLAN tag is another EtherType, and passes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use super::{NotDatagram, Packet};
use crate::{DropReason, NotOurs};

/// Bytes of the header.
pub const HEADER_LEN: u32 = 14;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;

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

/// Checks that the frame says it holds IPv4.
#[inline(always)]
pub(super) fn is_ipv4<P: Packet>(packet: &P) -> Result<(), NotDatagram> {
    let header: EthernetHeader = packet
        .read(0)
        .ok_or(NotDatagram::Unreadable(DropReason::TruncatedEthernet))?;
    if header.ether_type.get() == TYPE_IPV4 {
        Ok(())
    } else {
        Err(NotDatagram::Other(NotOurs::NotIpv4))
    }
}
