//! The headers that are put in front of a packet, from the EtherType on.

use ebpf_common::tunnel::{GUE_PORT, GUE_SOURCE_PORTS, OUTER_HOP_LIMIT};
use zerocopy::{Immutable, IntoBytes, network_endian::U16, transmute};

use super::checksum::Sum;
use crate::parse::{
    ethernet::{TYPE_IPV4, TYPE_IPV6},
    ipv4::{self, Ipv4Header},
    ipv6::{self, Ipv6Header},
    transport::{PROTOCOL_UDP, UDP_HEADER_LEN, UdpHeader},
};

/// IPv4 around a packet.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Ipip4 {
    ether_type: U16,
    ip: Ipv4Header,
}

/// IPv4 and UDP around a packet.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Gue4 {
    ether_type: U16,
    ip: Ipv4Header,
    udp: UdpHeader,
}

/// IPv6 around a packet.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Ipip6 {
    ether_type: U16,
    ip: Ipv6Header,
}

/// IPv6 and UDP around a packet.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Gue6 {
    ether_type: U16,
    ip: Ipv6Header,
    udp: UdpHeader,
}

/// What the outer headers say of the inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inner {
    /// Bytes of the packet.
    pub(super) len: u32,
    /// Its protocol number as a payload: IPv4 or IPv6.
    pub(super) protocol: u8,
    /// Differentiated services and congestion notification, which the outer header repeats (RFC 2983; RFC 6040, normal
    /// mode).
    pub(super) traffic_class: u8,
    /// A hash of its flow, for what varies by flow.
    pub(super) spread: u32,
}

impl Ipip4 {
    /// From `tunnel` to `worker`: the last two bytes of the source vary by flow, because a NIC spreads such packets over
    /// its queues by their addresses.
    #[inline(always)]
    pub(super) fn new(inner: &Inner, tunnel: [u8; 4], worker: [u8; 4]) -> Self {
        let [a, b, ..] = tunnel;
        let [c, d] = (inner.spread as u16).to_be_bytes();
        Self {
            ether_type: U16::new(TYPE_IPV4),
            ip: ipv4(inner, inner.protocol, inner.len, [a, b, c, d], worker),
        }
    }
}

impl Gue4 {
    /// From `tunnel` to `worker`: the source port varies by flow.
    #[inline(always)]
    pub(super) fn new(inner: &Inner, tunnel: [u8; 4], worker: [u8; 4]) -> Self {
        let len = inner.len + UDP_HEADER_LEN;
        Self {
            ether_type: U16::new(TYPE_IPV4),
            ip: ipv4(inner, PROTOCOL_UDP, len, tunnel, worker),
            udp: udp(inner),
        }
    }
}

impl Ipip6 {
    /// From `tunnel` to `worker`: the last four bytes of the source vary by flow.
    #[inline(always)]
    pub(super) fn new(inner: &Inner, mut tunnel: [u8; 16], worker: [u8; 16]) -> Self {
        let [.., a, b, c, d] = &mut tunnel;
        [*a, *b, *c, *d] = inner.spread.to_be_bytes();
        Self {
            ether_type: U16::new(TYPE_IPV6),
            ip: ipv6(inner, inner.protocol, inner.len, tunnel, worker),
        }
    }
}

impl Gue6 {
    /// From `tunnel` to `worker`: the source port varies by flow.
    #[inline(always)]
    pub(super) fn new(inner: &Inner, tunnel: [u8; 16], worker: [u8; 16]) -> Self {
        let len = inner.len + UDP_HEADER_LEN;
        Self {
            ether_type: U16::new(TYPE_IPV6),
            ip: ipv6(inner, PROTOCOL_UDP, len, tunnel, worker),
            udp: udp(inner),
        }
    }
}

#[inline(always)]
fn ipv4(
    inner: &Inner,
    protocol: u8,
    payload_len: u32,
    source: [u8; 4],
    destination: [u8; 4],
) -> Ipv4Header {
    let mut header = Ipv4Header {
        version_and_len: ipv4::VERSION_AND_LEN,
        service: inner.traffic_class,
        total_len: U16::new((ipv4::HEADER_LEN + payload_len) as u16),
        // Never fragmented, so it needs no identification (RFC 6864, section 4.1).
        identification: U16::ZERO,
        fragment: U16::new(ipv4::DONT_FRAGMENT),
        ttl: OUTER_HOP_LIMIT,
        protocol,
        checksum: [0; 2],
        source,
        destination,
    };
    header.checksum = Sum::ZERO.add::<5>(transmute!(header)).finish();
    header
}

#[inline(always)]
fn ipv6(
    inner: &Inner,
    next_header: u8,
    payload_len: u32,
    source: [u8; 16],
    destination: [u8; 16],
) -> Ipv6Header {
    // Version 6, traffic class, and no flow label.
    let first = 6 << 28 | u32::from(inner.traffic_class) << 20;
    Ipv6Header {
        version_class_flow: first.to_be_bytes(),
        payload_len: U16::new(payload_len as u16),
        next_header,
        hop_limit: OUTER_HOP_LIMIT,
        source,
        destination,
    }
}

/// Without a checksum, over IPv6 too, as RFC 6935 allows a tunnel: what it would protect has checksums of its own, and
/// the worker takes off nothing that contradicts its frame (the conditions of RFC 6936, section 5).
#[inline(always)]
fn udp(inner: &Inner) -> UdpHeader {
    UdpHeader {
        source: U16::new(GUE_SOURCE_PORTS | inner.spread as u16),
        destination: U16::new(GUE_PORT),
        len: U16::new((inner.len + UDP_HEADER_LEN) as u16),
        checksum: [0; 2],
    }
}

const _: () = assert!(size_of::<Gue6>() == 2 + (ipv6::HEADER_LEN + UDP_HEADER_LEN) as usize);
