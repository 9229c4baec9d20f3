//! UDP (RFC 768).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use super::{Datagram, NotDatagram, Packet, ip::IpPacket};
use crate::DropReason;

/// Bytes of the header.
pub const HEADER_LEN: u32 = 8;

/// The header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UdpHeader {
    /// Port of the sender.
    pub source: U16,
    /// Port of the receiver.
    pub destination: U16,
    /// Bytes of the datagram with this header.
    pub len: U16,
    /// One's complement sum over pseudo header, header and payload, as it lies in memory; 0 means none.
    pub checksum: [u8; 2],
}

const _: () = assert!(size_of::<UdpHeader>() == HEADER_LEN as usize);

/// Reads the header; whether its length is right is checked once the port is known to be a VIP's.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, ip: &IpPacket) -> Result<Datagram, NotDatagram> {
    let truncated = NotDatagram::Malformed {
        destination: ip.destination,
        reason: DropReason::TruncatedUdp,
    };
    if ip.payload_len < HEADER_LEN {
        return Err(truncated);
    }
    let header: UdpHeader = packet.read(ip.payload_offset).ok_or(truncated)?;
    Ok(Datagram {
        destination: ip.destination,
        port: header.destination.get(),
        udp_offset: ip.payload_offset,
        ip_payload_len: ip.payload_len,
        udp_len: u32::from(header.len.get()),
    })
}
