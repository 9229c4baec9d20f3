//! A client of either version of IP, behind any number of VLAN tags: what it sends, and what must come back to it.

use std::net::IpAddr;

use ebpf_common::{
    ids::FunctionId,
    wire::{Kind, RpcHeader, Status, flags},
};
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4::DestUnreachableHeader};

use super::frame::{BALANCER_MAC, CLIENT_MAC, CLIENT_PORT, VIP, VIP_PORT};
use crate::forward::ANSWER_HOPS;

/// The IPv6 address of the VIP.
pub const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// A client.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its address, which decides the version of IP.
    pub source: IpAddr,
    /// Its VLAN tags (identifier and priority), the outer one first.
    pub tags: Vec<u16>,
}

impl Caller {
    /// One at `source`, without a VLAN tag.
    #[must_use]
    pub fn new(source: impl Into<IpAddr>) -> Self {
        Self {
            source: source.into(),
            tags: Vec::new(),
        }
    }

    /// The frame in which it sends an RPC packet to the VIP.
    #[must_use]
    pub fn frame(&self, header: RpcHeader, payload: &[u8]) -> Vec<u8> {
        let payload_len = u32::try_from(payload.len()).expect("a payload is short");
        let header = RpcHeader {
            payload_len,
            ..header
        };
        let datagram = [&header.emit(), payload].concat();
        let builder = PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC);
        let builder = match self.source {
            IpAddr::V4(source) => builder.ipv4(source.octets(), VIP, 64),
            IpAddr::V6(source) => builder.ipv6(source.octets(), VIP6, 64),
        };
        self.tagged(written(builder.udp(CLIENT_PORT, VIP_PORT), &datagram))
    }

    /// The frame in which `header` comes back.
    #[must_use]
    pub fn answer(&self, header: RpcHeader) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(BALANCER_MAC, CLIENT_MAC);
        let builder = match self.source {
            IpAddr::V4(source) => builder.ipv4(VIP, source.octets(), ANSWER_HOPS),
            IpAddr::V6(source) => builder.ipv6(VIP6, source.octets(), ANSWER_HOPS),
        };
        self.tagged(written(builder.udp(VIP_PORT, CLIENT_PORT), &header.emit()))
    }

    /// The frame of the ERROR that answers `request`.
    #[must_use]
    pub fn error(&self, request: &RpcHeader, status: Status, retry_after_ms: u32) -> Vec<u8> {
        self.answer(RpcHeader {
            kind: Kind::Error,
            status: status as u16,
            budget_ms: retry_after_ms,
            ..echo(request)
        })
    }

    /// The frame of the RETRY that answers `request`.
    #[must_use]
    pub fn retry(&self, request: &RpcHeader, token: u64) -> Vec<u8> {
        let echo = echo(request);
        self.answer(RpcHeader {
            kind: Kind::Retry,
            flags: echo.flags | flags::HAS_TOKEN,
            token,
            ..echo
        })
    }

    /// The IP packet in which a worker sends it `datagram` from port `port` of the VIP.
    #[must_use]
    pub fn packet_from_vip(&self, port: u16, datagram: &[u8]) -> Vec<u8> {
        let builder = match self.source {
            IpAddr::V4(source) => PacketBuilder::ipv4(VIP, source.octets(), 63),
            IpAddr::V6(source) => PacketBuilder::ipv6(VIP6, source.octets(), 63),
        };
        written(builder.udp(port, CLIENT_PORT), datagram)
    }

    /// The frame in which it says that the packet which `quoted` begins was too long for the way. (A router would say that;
    /// it is as good a sender as any.)
    #[must_use]
    pub fn too_big(&self, quoted: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC);
        let mut bytes = Vec::new();
        let result = match self.source {
            IpAddr::V4(source) => {
                let error = DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: 1_400,
                };
                builder
                    .ipv4(source.octets(), VIP, 64)
                    .icmpv4(Icmpv4Type::DestinationUnreachable(error))
                    .write(&mut bytes, quoted)
            }
            IpAddr::V6(source) => builder
                .ipv6(source.octets(), VIP6, 64)
                .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1_400 })
                .write(&mut bytes, quoted),
        };
        result.expect("writing to a vector cannot fail");
        self.tagged(bytes)
    }

    /// Where the RPC header begins in its frames.
    #[must_use]
    pub fn rpc_offset(&self) -> usize {
        let ip = if self.source.is_ipv4() { 20 } else { 40 };
        14 + 4 * self.tags.len() + ip + 8
    }

    fn tagged(&self, mut frame: Vec<u8>) -> Vec<u8> {
        for (depth, tag) in self.tags.iter().rev().enumerate() {
            let is_outer_of_two = depth == 1;
            let ether_type: u16 = if is_outer_of_two { 0x88a8 } else { 0x8100 };
            let tag = [ether_type.to_be_bytes(), tag.to_be_bytes()].concat();
            frame.splice(12..12, tag);
        }
        frame
    }
}

/// The fields of a request that every answer repeats.
fn echo(request: &RpcHeader) -> RpcHeader {
    RpcHeader {
        flags: flags::FIRST | flags::LAST | request.flags & (flags::HAS_SESSION | flags::HAS_SLOT),
        session_id: request.session_id,
        slot: request.slot,
        ..RpcHeader::request(FunctionId(request.function.0), request.request_id)
    }
}

fn written(
    builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>,
    datagram: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(builder.size(datagram.len()));
    builder
        .write(&mut bytes, datagram)
        .expect("writing to a vector cannot fail");
    bytes
}
