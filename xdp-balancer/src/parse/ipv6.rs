//! IPv6 (RFC 8200).
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};
/// Bytes of the header without extension headers.
pub const HEADER_LEN: u32 = 40;
/// The header without extension headers.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_flow: [u8; 4],
    /// Bytes of the packet behind this header.
    pub payload_len: U16,
    /// Protocol of the payload, or of the first extension header.
    pub next_header: u8,
    /// Hops that are left.
    pub hop_limit: u8,
    /// Address of the sender.
    pub source: [u8; 16],
    /// Address of the receiver.
    pub destination: [u8; 16],
}
