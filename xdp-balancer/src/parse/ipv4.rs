//! IPv4 (RFC 791). The frame may be longer than the packet (Ethernet pads to 60 bytes), never shorter.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use super::{Family, Network, NotHeaders, Packet};
use crate::DropReason;

/// Bytes of a header without options.
pub const HEADER_LEN: u32 = 20;
/// Version 4 and a header of five words, the first byte of a header without options.
pub const VERSION_AND_LEN: u8 = 0x45;
/// "Don't fragment", in the field with the fragment offset.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments", in the field with the fragment offset.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset.
pub(super) const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The header without its options.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version in the upper half, header length in words in the lower.
    pub version_and_len: u8,
    /// Differentiated services and congestion notification.
    pub service: u8,
    /// Bytes of the packet with this header.
    pub total_len: U16,
    /// Identifies the fragments of one packet.
    pub identification: U16,
    /// Three flags, then the fragment offset.
    pub fragment: U16,
    /// Hops that are left.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// One's complement sum over the header, as it lies in memory.
    pub checksum: [u8; 2],
    /// Address of the sender.
    pub source: [u8; 4],
    /// Address of the receiver.
    pub destination: [u8; 4],
}

const _: () = assert!(size_of::<Ipv4Header>() == HEADER_LEN as usize);

/// Reads the header at `offset`. Options are skipped: they mean nothing on one link, and the worker's kernel reads them.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, offset: u32) -> Result<Network, NotHeaders> {
    let header: Ipv4Header = packet
        .read(offset)
        .ok_or(NotHeaders::Unreadable(DropReason::TruncatedIp))?;
    let malformed = |reason| NotHeaders::Malformed {
        family: Family::V4,
        offset,
        reason,
    };
    let header_len = u32::from(header.version_and_len & 0x0f) * 4;
    let total_len = u32::from(header.total_len.get());
    if header.version_and_len >> 4 != 4
        || header_len < HEADER_LEN
        || total_len < header_len
        || offset + total_len > packet.len()
    {
        return Err(malformed(DropReason::BadIp));
    }
    // A first fragment may hold all headers; a later one never does.
    let fragment = header.fragment.get();
    if fragment & FRAGMENT_OFFSET != 0 {
        return Err(malformed(DropReason::IpFragment));
    }
    Ok(Network {
        family: Family::V4,
        offset,
        len: total_len,
        protocol: header.protocol,
        payload_offset: offset + header_len,
        payload_len: total_len - header_len,
        is_fragment: fragment & MORE_FRAGMENTS != 0,
    })
}
