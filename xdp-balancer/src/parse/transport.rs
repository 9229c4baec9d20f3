//! Ports: UDP (RFC 768) and TCP (RFC 9293). ICMP has none.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use super::{Headers, Network, NotHeaders, Packet, icmp};
use crate::{DropReason, NotOurs};

/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Protocol number of an IPv4 packet within another (RFC 2003).
pub const PROTOCOL_IPV4: u8 = 4;
/// Protocol number of an IPv6 packet within another (RFC 2473).
pub const PROTOCOL_IPV6: u8 = 41;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Bytes of UDP's header.
pub const UDP_HEADER_LEN: u32 = 8;
/// Bytes of TCP's header without options.
const TCP_HEADER_LEN: u32 = 20;

/// UDP's header.
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

const _: () = assert!(size_of::<UdpHeader>() == UDP_HEADER_LEN as usize);

/// Whether packets of `protocol` are read here.
#[inline(always)]
pub(super) const fn is_read(protocol: u8) -> bool {
    matches!(protocol, PROTOCOL_UDP | PROTOCOL_TCP)
}

/// Reads the ports; whether a length is right is checked once the port is known to be a VIP's.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, network: &Network) -> Result<Headers, NotHeaders> {
    let header_len = match network.protocol {
        PROTOCOL_UDP => UDP_HEADER_LEN,
        PROTOCOL_TCP => TCP_HEADER_LEN,
        protocol if protocol == icmp::protocol(network.family) => {
            return icmp::parse(packet, network);
        }
        _ => return Err(NotHeaders::Other(NotOurs::NotVip)),
    };
    let truncated = network.malformed(DropReason::TruncatedUdp);
    if network.payload_len < header_len {
        return Err(truncated);
    }
    let [source_port, destination_port]: [U16; 2] =
        packet.read(network.payload_offset).ok_or(truncated)?;
    Ok(Headers {
        network: *network,
        source_port: source_port.get(),
        destination_port: destination_port.get(),
    })
}
