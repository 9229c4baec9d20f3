//! Packets to present: frames, and what makes flows of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ebpf_common::{
    hash::mix64,
    ids::FunctionId,
    traffic::{HEAD_LEN, HEAD_WORDS, Sum, Template, carries, undo, vary},
    wire::RpcHeader,
};
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};

/// Source address of flow 0.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
/// Source port of flow 0.
pub const CLIENT_PORT: u16 = 20_000;
/// Bytes behind the RPC header, at least: enough that all that is rewritten lies within the frame.
pub const PAYLOAD_MIN: usize = 24;
/// What packets without an RPC header carry: enough that all that is rewritten lies within the frame.
const PAYLOAD: [u8; HEAD_LEN] = [0x5a; HEAD_LEN];
/// From where ids are computed: not 0, which no function has for an id.
const SEED: u64 = 1;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Ip {
    /// As reports name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}

/// Where packets are sent.
#[derive(Debug, Clone, Copy)]
pub struct Destination {
    /// Address over IPv4.
    pub v4: Ipv4Addr,
    /// Address over IPv6.
    pub v6: Ipv6Addr,
    /// Port.
    pub port: u16,
    /// MAC addresses of sender and receiver.
    pub macs: [[u8; 6]; 2],
}

/// The frame that is presented, and how it differs from flow to flow.
#[derive(Debug, Clone)]
pub struct Scene {
    /// What the programs are told.
    pub template: Template,
    /// The frame of flow 0.
    pub frame: Vec<u8>,
}

/// The session of a flow.
#[must_use]
pub const fn session_of(flow: u64) -> u64 {
    mix64(SEED + flow)
}

/// The function of a flow.
#[must_use]
pub const fn function_of(flow: u64) -> FunctionId {
    FunctionId(mix64(SEED + flow))
}

/// RPC packets with the fields of `header` and `payload_len` bytes of payload (at least [`PAYLOAD_MIN`]) to
/// `destination`. `what` (of [`vary`]) differs between `flows` flows, a power of two; the sources always do.
///
/// # Panics
/// If `flows` is no power of two.
#[must_use]
pub fn rpc(
    ip: Ip,
    destination: Destination,
    header: RpcHeader,
    payload_len: usize,
    what: u32,
    flows: u32,
) -> Scene {
    let payload = vec![0x5a; payload_len.max(PAYLOAD_MIN)];
    let header = RpcHeader {
        payload_len: payload.len() as u32,
        ..header
    };
    let datagram = [header.emit().as_slice(), &payload].concat();
    let builder = network(ip, destination).udp(CLIENT_PORT, destination.port);
    let mut bytes = Vec::with_capacity(builder.size(datagram.len()));
    builder
        .write(&mut bytes, &datagram)
        .expect("writing to a vector cannot fail");
    scene(ip, carries::RPC, bytes, what, flows)
}

/// Packets in the middle of TCP connections to `destination`.
///
/// # Panics
/// If `flows` is no power of two.
#[must_use]
pub fn tcp(ip: Ip, destination: Destination, flows: u32) -> Scene {
    let segment = network(ip, destination).tcp(CLIENT_PORT, destination.port, 1, 64_240);
    let frame = segment_of(segment.ack(1));
    scene(ip, carries::PORTS, frame, 0, flows)
}

/// The first packets of TCP connections to `destination`, no two of the same one.
#[must_use]
pub fn tcp_new(ip: Ip, destination: Destination) -> Scene {
    let segment = network(ip, destination).tcp(CLIENT_PORT, destination.port, 1, 64_240);
    let frame = segment_of(segment.syn());
    scene(ip, carries::PORTS, frame, vary::NEW_SOURCE, 1)
}

/// Datagrams to `destination`, no two of the same source.
#[must_use]
pub fn udp_new(ip: Ip, destination: Destination) -> Scene {
    let frame = datagram(ip, destination, &PAYLOAD);
    scene(ip, carries::PORTS, frame, vary::NEW_SOURCE, 1)
}

/// QUIC packets with a short header to `destination`, whose connection ids name workers (see
/// [`Fields::connection_id`](ebpf_common::traffic::Fields::connection_id)).
///
/// # Panics
/// If `flows` is no power of two.
#[must_use]
pub fn quic(ip: Ip, destination: Destination, flows: u32) -> Scene {
    let mut payload = PAYLOAD;
    // The form bit clear, the fixed bit set (RFC 9000, section 17.3).
    payload[0] = 0x40;
    let frame = datagram(ip, destination, &payload);
    scene(ip, carries::PORTS, frame, vary::CONNECTION, flows)
}

fn segment_of(builder: PacketBuilderStep<TcpHeader>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(builder.size(PAYLOAD.len()));
    builder
        .write(&mut bytes, &PAYLOAD)
        .expect("writing to a vector cannot fail");
    bytes
}

fn datagram(ip: Ip, destination: Destination, payload: &[u8]) -> Vec<u8> {
    let builder = network(ip, destination).udp(CLIENT_PORT, destination.port);
    let mut bytes = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut bytes, payload)
        .expect("writing to a vector cannot fail");
    bytes
}

fn network(ip: Ip, destination: Destination) -> PacketBuilderStep<IpHeaders> {
    let [from, to] = destination.macs;
    let ethernet = PacketBuilder::ethernet2(from, to);
    match ip {
        Ip::V4 => ethernet.ipv4(CLIENT.octets(), destination.v4.octets(), 64),
        Ip::V6 => {
            let [a, b, c, d] = CLIENT.octets();
            let [ab, cd] = [[a, b], [c, d]].map(u16::from_be_bytes);
            let client = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, ab, cd);
            ethernet.ipv6(client.octets(), destination.v6.octets(), 64)
        }
    }
}

fn scene(ip: Ip, carries: u32, frame: Vec<u8>, what: u32, flows: u32) -> Scene {
    assert!(flows.is_power_of_two(), "flows are a power of two");
    let mut template = Template {
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
        ip_sum: 0,
        head: [0; HEAD_WORDS],
        udp_sum: 0,
        reserved: 0,
    };
    for (word, bytes) in template.head.iter_mut().zip(frame.chunks_exact(8)) {
        *word = word_of(bytes);
    }
    let mut scene = Scene { template, frame };
    if carries == self::carries::RPC {
        scene.sum();
    }
    scene
}

impl Scene {
    /// The same with another way of undoing what the program under test does (see [`undo`]).
    #[must_use]
    pub const fn undoing(mut self, what: u32) -> Self {
        self.template.undo = what;
        self
    }

    /// The same with right checksums in every packet.
    #[must_use]
    pub const fn with_checksums(mut self) -> Self {
        self.template.vary |= vary::CHECKSUMS;
        self
    }

    /// Sums up what the checksums of IPv4 and UDP are over, without what differs from packet to packet.
    fn sum(&mut self) {
        let template = &mut self.template;
        let mut frame = self.frame.clone();
        let ports = template.ports_offset();
        let rpc = template.rpc_offset();
        let mut clear = |from: usize, len: usize| {
            frame
                .iter_mut()
                .skip(from)
                .take(len)
                .for_each(|byte| *byte = 0);
        };
        clear(template.source_offset(), 4);
        clear(ports, 2);
        clear(ports + 6, 2);
        clear(rpc + 8, 8);
        for (what, offset, len) in [
            (vary::FUNCTION, 16, 8),
            (vary::SESSION | vary::NEW_SESSION, 24, 8),
            (vary::SLOT, 32, 2),
            (vary::COOKIE, 48, 8),
        ] {
            if template.varies(what) {
                clear(rpc + offset, len);
            }
        }
        let addresses = if template.ip == 4 {
            clear(24, 2);
            template.ip_sum = sum_of(frame.get(14..34).unwrap_or_default()).into();
            26..34
        } else {
            22..54
        };
        let datagram = frame.get(ports..).unwrap_or_default();
        let addresses = frame.get(addresses).unwrap_or_default();
        let protocol_and_len = [0, 17];
        let len = (datagram.len() as u16).to_be_bytes();
        let pseudo = [addresses, &protocol_and_len, &len].concat();
        template.udp_sum = u32::from(sum_of(&pseudo)) + u32::from(sum_of(datagram));
    }
}

fn sum_of(bytes: &[u8]) -> u16 {
    let mut sum = Sum::new(0);
    bytes.chunks(8).for_each(|chunk| sum.add(word_of(chunk)));
    sum.fold()
}

/// Up to eight bytes as a word, as they lie in memory.
fn word_of(bytes: &[u8]) -> u64 {
    let mut buffer = [0; 8];
    for (place, byte) in buffer.iter_mut().zip(bytes) {
        *place = *byte;
    }
    u64::from_ne_bytes(buffer)
}
