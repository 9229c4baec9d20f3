//! A client of either version of IP, behind any number of VLAN tags: what it sends, and what must come back to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebpf_common::{
    ids::FunctionId,
    wire::{Kind, RpcHeader, Status, flags},
};

pub use super::frame::VIP6;
use super::frame::{BALANCER_MAC, CLIENT_MAC, CLIENT_PORT, Frame, Transport, VIP, VIP_PORT};
use crate::forward::ANSWER_HOPS;

/// Bytes of a UDP header, and of an RPC header without parts that come by choice.
const UDP_LEN: usize = 8;
const RPC_LEN: usize = 64;

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

    /// One of either version of IP, each behind no, one and two VLAN tags.
    #[must_use]
    pub fn of_each_kind() -> Vec<Self> {
        let addresses: [IpAddr; 2] = [
            Ipv4Addr::new(10, 80, 0, 3).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 3).into(),
        ];
        let tags = [vec![], vec![7], vec![0x6007, 8]];
        let each = addresses
            .into_iter()
            .flat_map(|source| tags.clone().map(|tags| Self { source, tags }));
        each.collect()
    }

    /// Those whose addresses are no host's: whoever seems to send from there gets no answer.
    #[must_use]
    pub fn of_no_host() -> Vec<Self> {
        let addresses4 = [[0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]];
        let addresses6 = [
            Ipv6Addr::UNSPECIFIED,
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        ];
        let of4 = addresses4.map(|address| Self::new(Ipv4Addr::from(address)));
        of4.into_iter().chain(addresses6.map(Self::new)).collect()
    }

    /// The frame in which it sends an RPC packet to the VIP whose IP packet has `len` bytes.
    ///
    /// # Panics
    /// If that is less than the headers have.
    #[must_use]
    pub fn frame_of_len(&self, header: RpcHeader, len: usize) -> Vec<u8> {
        let ip = if self.source.is_ipv4() { 20 } else { 40 };
        let headers = ip + UDP_LEN + RPC_LEN;
        let payload: Vec<u8> = (0..len - headers).map(|at| (at * 7) as u8).collect();
        self.frame(header, &payload)
    }

    /// The frame in which it sends an RPC packet to the VIP.
    #[must_use]
    pub fn frame(&self, header: RpcHeader, payload: &[u8]) -> Vec<u8> {
        self.to_vip().carrying(header, payload).bytes()
    }

    /// The frame in which `header` comes back.
    #[must_use]
    pub fn answer(&self, header: RpcHeader) -> Vec<u8> {
        let frame = Frame {
            macs: [CLIENT_MAC, BALANCER_MAC],
            hops: ANSWER_HOPS,
            ..self.of_vip(VIP_PORT, &header.emit())
        };
        frame.bytes()
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
        self.of_vip(port, datagram).packet()
    }

    /// The frame in which it says that the packet which `quoted` begins was too long for the way. (A router would say that;
    /// it is as good a sender as any.)
    #[must_use]
    pub fn too_big(&self, quoted: &[u8]) -> Vec<u8> {
        // "Fragmentation needed" of RFC 1191, or RFC 4443, section 3.2: the next hop takes 1,400 bytes.
        let (kind, code) = if self.source.is_ipv4() {
            (3, 4)
        } else {
            (2, 0)
        };
        let rest = 1_400_u32.to_be_bytes();
        let frame = Frame {
            transport: Transport::Icmp { kind, code, rest },
            datagram: quoted.to_vec(),
            ..self.to_vip()
        };
        frame.bytes()
    }

    /// Where the RPC header begins in its frames.
    #[must_use]
    pub fn rpc_offset(&self) -> usize {
        self.to_vip().rpc_offset()
    }

    /// A frame to the VIP with an empty datagram.
    #[must_use]
    pub fn to_vip(&self) -> Frame {
        Frame {
            tags: self.tags.clone(),
            source: self.source,
            destination: self.vip(),
            ..Frame::udp(Vec::new())
        }
    }

    /// A frame as a worker sends it.
    fn of_vip(&self, port: u16, datagram: &[u8]) -> Frame {
        Frame {
            source: self.vip(),
            destination: self.source,
            hops: 63,
            source_port: port,
            port: CLIENT_PORT,
            datagram: datagram.to_vec(),
            ..self.to_vip()
        }
    }

    /// The VIP's address of its version of IP.
    fn vip(&self) -> IpAddr {
        match self.source {
            IpAddr::V4(_) => VIP.into(),
            IpAddr::V6(_) => VIP6.into(),
        }
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
