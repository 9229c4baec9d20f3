//! Frames to present, built by `etherparse` with its own checksums.

use std::net::{Ipv4Addr, Ipv6Addr};

use ebpf_common::{
    hash::mix64,
    ids::FunctionId,
    traffic::{HEAD_LEN, HEAD_WORDS, Template, carries, undo, vary},
    wire::RpcHeader,
};
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use xdp_balancer::testing::frame::{BALANCER_MAC, CLIENT_MAC};

use crate::harness::Scene;

/// Source address of flow 0.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x0a01, 0);
/// Source port of flow 0.
const CLIENT_PORT: u16 = 20_000;
/// Bytes behind the RPC header: enough that all headers lie within what is rewritten.
const PAYLOAD: [u8; 100] = [0x5a; 100];

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ip {
    V4,
    V6,
}

impl Ip {
    /// As reports name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}

/// Where a packet is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) port: u16,
}

/// From where ids are computed: not 0, which no function has for an id.
const SEED: u64 = 1;

/// The session of a flow, where no other seed is set.
pub(crate) const fn session_of(flow: u64) -> u64 {
    mix64(SEED + flow)
}

/// The function of a flow.
pub(crate) const fn function_of(flow: u64) -> FunctionId {
    FunctionId(mix64(SEED + flow))
}

/// An RPC packet with the fields of `header` to `destination`.
pub(crate) fn rpc(
    ip: Ip,
    destination: Destination,
    header: RpcHeader,
    what: u32,
    flows: u32,
) -> Scene {
    let header = RpcHeader {
        payload_len: PAYLOAD.len() as u32,
        ..header
    };
    let payload = [header.emit().as_slice(), &PAYLOAD].concat();
    let builder = network(ip, destination).udp(CLIENT_PORT, destination.port);
    let mut bytes = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut bytes, &payload)
        .expect("writing to a vector cannot fail");
    scene(ip, carries::RPC, bytes, what, flows)
}

/// A packet in the middle of a TCP connection to `destination`.
pub(crate) fn tcp(ip: Ip, destination: Destination, flows: u32) -> Scene {
    let builder = network(ip, destination)
        .tcp(CLIENT_PORT, destination.port, 1, 64_240)
        .ack(1);
    let mut bytes = Vec::with_capacity(builder.size(PAYLOAD.len()));
    builder
        .write(&mut bytes, &PAYLOAD)
        .expect("writing to a vector cannot fail");
    bytes.resize(bytes.len().max(HEAD_LEN), 0);
    scene(ip, carries::PORTS, bytes, 0, flows)
}

fn network(ip: Ip, destination: Destination) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC);
    match ip {
        Ip::V4 => ethernet.ipv4(CLIENT.octets(), destination.v4.octets(), 64),
        Ip::V6 => ethernet.ipv6(CLIENT_V6.octets(), destination.v6.octets(), 64),
    }
}

fn scene(ip: Ip, carries: u32, frame: Vec<u8>, what: u32, flows: u32) -> Scene {
    assert!(flows.is_power_of_two(), "flows are a power of two");
    assert!(frame.len() >= HEAD_LEN, "all headers are rewritten");
    let mut head = [0; HEAD_WORDS];
    for (word, bytes) in head.iter_mut().zip(frame.chunks_exact(8)) {
        let mut buffer = [0; 8];
        buffer.copy_from_slice(bytes);
        *word = u64::from_ne_bytes(buffer);
    }
    let template = Template {
        mask: u64::from(flows) - 1,
        session_seed: SEED,
        function_seed: SEED,
        vary: what | vary::SOURCE,
        undo: undo::NOTHING,
        carries,
        ip: match ip {
            Ip::V4 => 4,
            Ip::V6 => 6,
        },
        frame_len: frame.len() as u32,
        source: CLIENT.to_bits(),
        port: u32::from(CLIENT_PORT),
        reserved: 0,
        head,
        padding: 0,
    };
    Scene { template, frame }
}
