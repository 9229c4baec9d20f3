//! The headers around a packet.

use ebpf_common::{maps::DecapRow, tunnel::GUE_PORT};

use crate::{
    Packet,
    parse::{
        Family,
        ipv4::{self, Ipv4Header},
        ipv6::{self, Ipv6Header},
        transport::{PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP, UDP_HEADER_LEN, UdpHeader},
    },
};

/// More fragments, or a fragment offset: what no balancer sends.
const FRAGMENT_MASK: u16 = 0x3fff;

/// The outer IP header, as far as it concerns us.
pub(super) struct Outer {
    source: Address,
    destination: Address,
    protocol: u8,
    /// Differentiated services and congestion notification.
    pub(super) traffic_class: u8,
    payload_offset: u32,
    payload_len: u32,
}

#[derive(Clone, Copy)]
enum Address {
    V4(u32),
    V6([u64; 2]),
}

/// What is encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payload {
    /// Where it begins.
    pub(super) offset: u32,
    /// Its bytes.
    pub(super) len: u32,
    /// The family that the outer header says it is of; UDP says none.
    pub(super) family: Option<Family>,
    /// Whether the lengths of IP and UDP contradict each other.
    pub(super) contradicts: bool,
}

impl Outer {
    /// The header at `offset`, if a balancer may have written it: whole, of no fragment, around what may be a packet.
    #[inline(always)]
    pub(super) fn read<P: Packet>(packet: &P, family: Family, offset: u32) -> Option<Self> {
        let outer = match family {
            Family::V4 => Self::ipv4(packet, offset)?,
            Family::V6 => Self::ipv6(packet, offset)?,
        };
        let is_whole = outer.payload_offset + outer.payload_len <= packet.len();
        let is_tunnel = matches!(outer.protocol, PROTOCOL_IPV4 | PROTOCOL_IPV6 | PROTOCOL_UDP);
        (is_whole && is_tunnel).then_some(outer)
    }

    #[inline(always)]
    fn ipv4<P: Packet>(packet: &P, offset: u32) -> Option<Self> {
        let header: Ipv4Header = packet.read(offset)?;
        let header_len = u32::from(header.version_and_len & 0x0f) * 4;
        let total_len = u32::from(header.total_len.get());
        if header.version_and_len >> 4 != 4
            || header_len < ipv4::HEADER_LEN
            || total_len < header_len
            || header.fragment.get() & FRAGMENT_MASK != 0
        {
            return None;
        }
        Some(Self {
            source: Address::V4(u32::from_ne_bytes(header.source)),
            destination: Address::V4(u32::from_ne_bytes(header.destination)),
            protocol: header.protocol,
            traffic_class: header.service,
            payload_offset: offset + header_len,
            payload_len: total_len - header_len,
        })
    }

    /// Extension headers are for the kernel: no balancer writes any.
    #[inline(always)]
    fn ipv6<P: Packet>(packet: &P, offset: u32) -> Option<Self> {
        let header: Ipv6Header = packet.read(offset)?;
        let first = u32::from_be_bytes(header.version_class_flow);
        if first >> 28 != 6 {
            return None;
        }
        Some(Self {
            source: Address::V6(words(header.source)),
            destination: Address::V6(words(header.destination)),
            protocol: header.next_header,
            traffic_class: (first >> 20) as u8,
            payload_offset: offset + ipv6::HEADER_LEN,
            payload_len: u32::from(header.payload_len.get()),
        })
    }

    /// Whether it is addressed to this host.
    #[inline(always)]
    pub(super) fn is_for(&self, row: &DecapRow) -> bool {
        match self.destination {
            Address::V4(addr) => row.is_local4(addr),
            Address::V6(addr) => row.is_local6(addr),
        }
    }

    /// Whether it comes from where balancers are.
    #[inline(always)]
    pub(super) fn is_from_balancer(&self, row: &DecapRow) -> bool {
        match self.source {
            Address::V4(addr) => row.accepts4(addr),
            Address::V6(addr) => row.accepts6(addr),
        }
    }

    /// What is encapsulated; `None` if nothing is: UDP for another port than GUE's.
    #[inline(always)]
    pub(super) fn payload<P: Packet>(&self, packet: &P) -> Option<Payload> {
        let payload = Payload {
            offset: self.payload_offset,
            len: self.payload_len,
            family: None,
            contradicts: false,
        };
        match self.protocol {
            PROTOCOL_IPV4 => Some(Payload {
                family: Some(Family::V4),
                ..payload
            }),
            PROTOCOL_IPV6 => Some(Payload {
                family: Some(Family::V6),
                ..payload
            }),
            _ => {
                let udp: UdpHeader = packet.read(self.payload_offset)?;
                let len = self.payload_len.checked_sub(UDP_HEADER_LEN)?;
                (udp.destination.get() == GUE_PORT).then_some(Payload {
                    offset: self.payload_offset + UDP_HEADER_LEN,
                    len,
                    contradicts: u32::from(udp.len.get()) != self.payload_len,
                    ..payload
                })
            }
        }
    }
}

impl Payload {
    /// Whether it may be a packet of `family`.
    #[inline(always)]
    pub(super) fn allows(&self, family: Family) -> bool {
        self.family.is_none_or(|said| said == family)
    }
}

#[inline(always)]
const fn words(addr: [u8; 16]) -> [u64; 2] {
    ebpf_common::maps::words(addr)
}
