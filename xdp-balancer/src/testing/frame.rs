//! Frames, built by `etherparse` with its own checksums: requests, and what must become of them.

use ebpf_common::{
    ids::FunctionId,
    wire::{Kind, RpcHeader, Status, flags},
};
use etherparse::{IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, PacketBuilder};

pub use super::tunnel::forwarded;

/// The client's MAC address.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
/// The balancer's MAC address.
pub const BALANCER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xba];
/// The client's address.
pub const CLIENT: [u8; 4] = [10, 80, 0, 3];
/// The client's port.
pub const CLIENT_PORT: u16 = 40_000;
/// The VIP's address.
pub const VIP: [u8; 4] = [10, 99, 0, 1];
/// The VIP's port.
pub const VIP_PORT: u16 = 9_000;
/// Where the UDP header begins in a frame without IPv4 options.
pub const UDP_OFFSET: usize = 34;
/// Where the RPC header begins in a frame without IPv4 options.
pub const RPC_OFFSET: usize = 42;

/// A frame from the client to the VIP.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Address it is sent to.
    pub destination: [u8; 4],
    /// Port it is sent to.
    pub port: u16,
    /// IPv4 options, a multiple of four bytes, at most 40.
    pub options: Vec<u8>,
    /// The second half of the IPv4 header's fragment field: offset in units of eight bytes.
    pub fragment_offset: u16,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// What UDP carries.
    pub datagram: Vec<u8>,
}

impl Frame {
    /// A frame with an RPC packet, whose header gets the length of `payload`.
    #[must_use]
    pub fn rpc(header: RpcHeader, payload: &[u8]) -> Self {
        let payload_len = u32::try_from(payload.len()).expect("a payload is short");
        let header = RpcHeader {
            payload_len,
            ..header
        };
        Self::udp([&header.emit(), payload].concat())
    }

    /// A frame with any datagram.
    #[must_use]
    pub const fn udp(datagram: Vec<u8>) -> Self {
        Self {
            destination: VIP,
            port: VIP_PORT,
            options: Vec::new(),
            fragment_offset: 0,
            more_fragments: false,
            datagram,
        }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, CLIENT, self.destination)
            .expect("an empty payload fits");
        ip.options = Ipv4Options::try_from(self.options.as_slice()).expect("options fit");
        ip.fragment_offset = IpFragOffset::try_new(self.fragment_offset).expect("an offset fits");
        ip.more_fragments = self.more_fragments;
        ip.dont_fragment = !self.more_fragments && self.fragment_offset == 0;
        let builder = PacketBuilder::ethernet2(CLIENT_MAC, BALANCER_MAC)
            .ip(IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
            .udp(CLIENT_PORT, self.port);
        let mut bytes = Vec::with_capacity(builder.size(self.datagram.len()));
        builder
            .write(&mut bytes, &self.datagram)
            .expect("writing to a vector cannot fail");
        bytes
    }
}

/// The ERROR frame that must answer a request with the fields of `request`.
#[must_use]
pub fn error_answer(request: &RpcHeader, status: Status, retry_after_ms: u32) -> Vec<u8> {
    let header = RpcHeader {
        kind: Kind::Error,
        flags: flags::FIRST | flags::LAST | request.flags & (flags::HAS_SESSION | flags::HAS_SLOT),
        session_id: request.session_id,
        slot: request.slot,
        status: status as u16,
        budget_ms: retry_after_ms,
        ..RpcHeader::request(FunctionId(request.function.0), request.request_id)
    };
    let builder = PacketBuilder::ethernet2(BALANCER_MAC, CLIENT_MAC)
        .ipv4(VIP, CLIENT, crate::forward::ANSWER_HOPS)
        .udp(VIP_PORT, CLIENT_PORT);
    let mut bytes = Vec::with_capacity(builder.size(header.emit().len()));
    builder
        .write(&mut bytes, &header.emit())
        .expect("writing to a vector cannot fail");
    bytes
}
