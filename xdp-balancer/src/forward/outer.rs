//! The headers that are put in front of a packet, from the EtherType on.
//!
//! They are made in registers, as the 64-bit words that are stored. Made field by field, they would lie on the stack by
//! narrow stores and be read back by wider loads, which the processor cannot forward: 11 to 14 ns a packet.

use ebpf_common::tunnel::{GUE_PORT, GUE_SOURCE_PORTS, OUTER_HOP_LIMIT};
use zerocopy::{
    Immutable, IntoBytes,
    network_endian::{U16, U32, U64},
};

use super::checksum::Sum;
use crate::parse::{
    ethernet::{TYPE_IPV4, TYPE_IPV6},
    ipv4, ipv6,
    transport::{PROTOCOL_UDP, UDP_HEADER_LEN},
};

/// IPv4 around a packet.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Ipip4([U64; 2], U32, U16);

/// IPv4 and UDP around a packet.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Gue4([U64; 3], U32, U16);

/// IPv6 around a packet.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Ipip6([U64; 5], U16);

/// IPv6 and UDP around a packet.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Gue6([U64; 6], U16);

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
        let source = u32::from_be_bytes(tunnel) & 0xffff_0000 | inner.spread & 0xffff;
        let [a, b, c, d, e] = ipv4(inner, inner.protocol, inner.len, source, worker);
        let (last, end) = last(d, e);
        Self([first(TYPE_IPV4, a, b), next(b, c, d)], last, end)
    }
}

impl Gue4 {
    /// From `tunnel` to `worker`: the source port varies by flow.
    #[inline(always)]
    pub(super) fn new(inner: &Inner, tunnel: [u8; 4], worker: [u8; 4]) -> Self {
        let source = u32::from_be_bytes(tunnel);
        let len = inner.len + UDP_HEADER_LEN;
        let [a, b, c, d, e] = ipv4(inner, PROTOCOL_UDP, len, source, worker);
        let [f, g] = udp(inner);
        let (last, end) = last(f, g);
        Self(
            [first(TYPE_IPV4, a, b), next(b, c, d), next(d, e, f)],
            last,
            end,
        )
    }
}

impl Ipip6 {
    /// From `tunnel` to `worker`: the last four bytes of the source vary by flow.
    #[inline(always)]
    pub(super) fn new(inner: &Inner, tunnel: [u8; 16], worker: [u8; 16]) -> Self {
        let [s, t, u, _] = words(tunnel);
        let source = [s, t, u, inner.spread];
        let [a, b, c, d, e, f, g, h, i, j] = ipv6(inner, inner.protocol, inner.len, source, worker);
        Self(
            [
                first(TYPE_IPV6, a, b),
                next(b, c, d),
                next(d, e, f),
                next(f, g, h),
                next(h, i, j),
            ],
            U16::new(j as u16),
        )
    }
}

impl Gue6 {
    /// From `tunnel` to `worker`: the source port varies by flow.
    #[inline(always)]
    pub(super) fn new(inner: &Inner, tunnel: [u8; 16], worker: [u8; 16]) -> Self {
        let len = inner.len + UDP_HEADER_LEN;
        let [a, b, c, d, e, f, g, h, i, j] = ipv6(inner, PROTOCOL_UDP, len, words(tunnel), worker);
        let [k, l] = udp(inner);
        Self(
            [
                first(TYPE_IPV6, a, b),
                next(b, c, d),
                next(d, e, f),
                next(f, g, h),
                next(h, i, j),
                next(j, k, l),
            ],
            U16::new(l as u16),
        )
    }
}

/// An EtherType and the words behind it, but for the second half of `b`.
#[inline(always)]
fn first(ether_type: u16, a: u32, b: u32) -> U64 {
    next(u32::from(ether_type), a, b)
}

/// The second half of `before` and the words behind it, but for the second half of `b`.
#[inline(always)]
fn next(before: u32, a: u32, b: u32) -> U64 {
    U64::new(u64::from(before) << 48 | u64::from(a) << 16 | u64::from(b) >> 16)
}

/// The second half of `before`, and the last word.
#[inline(always)]
fn last(before: u32, last: u32) -> (U32, U16) {
    (U32::new(before << 16 | last >> 16), U16::new(last as u16))
}

/// The words of an IPv4 header (RFC 791). It is never fragmented, so it needs no identification (RFC 6864, section 4.1).
#[inline(always)]
fn ipv4(
    inner: &Inner,
    protocol: u8,
    payload_len: u32,
    source: u32,
    destination: [u8; 4],
) -> [u32; 5] {
    let total_len = (ipv4::HEADER_LEN + payload_len) & 0xffff;
    let first =
        u32::from(ipv4::VERSION_AND_LEN) << 24 | u32::from(inner.traffic_class) << 16 | total_len;
    let fragment = u32::from(ipv4::DONT_FRAGMENT);
    let third = u32::from(OUTER_HOP_LIMIT) << 24 | u32::from(protocol) << 16;
    let destination = u32::from_be_bytes(destination);
    // The sum of words in network order is in network order, as the sum of words as they lie in memory lies there.
    let sum = Sum::ZERO.add([first, fragment, third, source, destination]);
    let checksum = u32::from(u16::from_ne_bytes(sum.finish()));
    [first, fragment, third | checksum, source, destination]
}

/// The words of an IPv6 header (RFC 8200), without a flow label.
#[inline(always)]
fn ipv6(
    inner: &Inner,
    next_header: u8,
    payload_len: u32,
    source: [u32; 4],
    destination: [u8; 16],
) -> [u32; 10] {
    let first = 6 << 28 | u32::from(inner.traffic_class) << 20;
    let second = payload_len << 16 | u32::from(next_header) << 8 | u32::from(OUTER_HOP_LIMIT);
    let [a, b, c, d] = source;
    let [e, f, g, h] = words(destination);
    [first, second, a, b, c, d, e, f, g, h]
}

/// The words of a UDP header without a checksum, over IPv6 too, as RFC 6935 allows a tunnel: what it would protect has
/// checksums of its own, and the worker takes off nothing that contradicts its frame (the conditions of RFC 6936, section
/// 5).
#[inline(always)]
fn udp(inner: &Inner) -> [u32; 2] {
    let source = u32::from(GUE_SOURCE_PORTS | inner.spread as u16);
    let len = inner.len + UDP_HEADER_LEN;
    [source << 16 | u32::from(GUE_PORT), len << 16]
}

/// The words of an IPv6 address.
#[inline(always)]
fn words(address: [u8; 16]) -> [u32; 4] {
    let words: [[u8; 4]; 4] = zerocopy::transmute!(address);
    words.map(u32::from_be_bytes)
}

const _: () = assert!(size_of::<Gue6>() == 2 + (ipv6::HEADER_LEN + UDP_HEADER_LEN) as usize);
const _: () = assert!(size_of::<Gue4>() == 2 + (ipv4::HEADER_LEN + UDP_HEADER_LEN) as usize);
