//! Frames, built by `etherparse` with its own checksums: every header that the pipeline reads, and what may stand between
//! them. The one builder of frames for all tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebpf_common::wire::{RpcHeader, Status};
use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpDscp, IpEcn, IpFragOffset, IpNumber,
    Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader,
};

pub use super::tunnel::forwarded;
use super::{caller::Caller, extension::Extension};

/// The client's MAC address.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
/// The balancer's MAC address.
pub const BALANCER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xba];
/// The client's address.
pub const CLIENT: [u8; 4] = [10, 80, 0, 3];
/// The client's IPv6 address.
pub const CLIENT6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6];
/// The client's port.
pub const CLIENT_PORT: u16 = 40_000;
/// The VIP's address.
pub const VIP: [u8; 4] = [10, 99, 0, 1];
/// The VIP's IPv6 address.
pub const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// The VIP's port.
pub const VIP_PORT: u16 = 9_000;
/// Where the UDP header begins in a frame without VLAN tags and IPv4 options.
pub const UDP_OFFSET: usize = 34;
/// Where the RPC header begins in a frame without VLAN tags and IPv4 options.
pub const RPC_OFFSET: usize = 42;

/// What IP carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP with these flags, as they lie in its header (FIN 1, SYN 2, RST 4, ACK 16).
    Tcp {
        /// The flags.
        flags: u8,
    },
    /// ICMP or ICMPv6, by the version of IP.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// The second half of its header.
        rest: [u8; 4],
    },
    /// Another protocol, of which nothing is known: the payload as it is.
    Other(u8),
}

/// A frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// MAC addresses of receiver and sender.
    pub macs: [[u8; 6]; 2],
    /// VLAN tags (priority and identifier), the outer one first.
    pub tags: Vec<u16>,
    /// Address that it comes from, which decides the version of IP.
    pub source: IpAddr,
    /// Address it is sent to, of the same version.
    pub destination: IpAddr,
    /// Hops that are left.
    pub hops: u8,
    /// Differentiated services and congestion notification.
    pub traffic_class: u8,
    /// IPv4 options, a multiple of four bytes, at most 40.
    pub options: Vec<u8>,
    /// IPv6 extension headers.
    pub extensions: Vec<Extension>,
    /// Of a fragment: its offset in units of eight bytes. IPv6 has it in an extension header, behind [`Self::extensions`].
    pub fragment_offset: u16,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// What IP carries.
    pub transport: Transport,
    /// Port that it comes from.
    pub source_port: u16,
    /// Port it is sent to.
    pub port: u16,
    /// What UDP, TCP or ICMP carries.
    pub datagram: Vec<u8>,
    /// Of a first fragment: how many bytes of the transport header and what it carries are in it; `None` for all.
    pub held: Option<usize>,
}

impl Frame {
    /// A frame with an RPC packet, whose header gets the length of `payload`.
    #[must_use]
    pub fn rpc(header: RpcHeader, payload: &[u8]) -> Self {
        Self::udp(Vec::new()).carrying(header, payload)
    }

    /// A frame from the client to the VIP with any datagram, by IPv4 and UDP.
    #[must_use]
    pub fn udp(datagram: Vec<u8>) -> Self {
        Self {
            macs: [BALANCER_MAC, CLIENT_MAC],
            tags: Vec::new(),
            source: CLIENT.into(),
            destination: VIP.into(),
            hops: 64,
            traffic_class: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment_offset: 0,
            more_fragments: false,
            transport: Transport::Udp,
            source_port: CLIENT_PORT,
            port: VIP_PORT,
            datagram,
            held: None,
        }
    }

    /// The same by IPv6.
    #[must_use]
    pub fn over_v6(self) -> Self {
        Self {
            source: CLIENT6.into(),
            destination: VIP6.into(),
            ..self
        }
    }

    /// The same frame with an RPC packet, whose header gets the length of `payload`.
    #[must_use]
    pub fn carrying(&self, header: RpcHeader, payload: &[u8]) -> Self {
        let payload_len = u32::try_from(payload.len()).expect("a payload is short");
        let header = RpcHeader {
            payload_len,
            ..header
        };
        Self {
            datagram: [&header.emit(), payload].concat(),
            ..self.clone()
        }
    }

    /// The frame of a QUIC packet whose destination connection id is `id`: with a long header, which tells its length, or a
    /// short one.
    #[must_use]
    pub fn quic(is_long: bool, id: &[u8]) -> Self {
        let len = u8::try_from(id.len()).expect("an id is short");
        let head: &[u8] = if is_long {
            &[0xc3, 0, 0, 0, 1, len]
        } else {
            &[0x43]
        };
        Self::udp([head, id, &[0; 40]].concat())
    }

    /// The frame of packet number `sequence` of the kernel's pktgen.
    #[must_use]
    pub fn pktgen(sequence: u32) -> Self {
        let head = [0xbe9b_e955_u32.to_be_bytes(), sequence.to_be_bytes()].concat();
        Self::udp([&head[..], &[0; 8]].concat())
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.macs.concat();
        for (depth, tag) in self.tags.iter().rev().enumerate().rev() {
            let is_outer_of_two = depth == 1;
            let ether_type: u16 = if is_outer_of_two { 0x88a8 } else { 0x8100 };
            bytes.extend(ether_type.to_be_bytes());
            bytes.extend(tag.to_be_bytes());
        }
        let ether_type: u16 = match self.source {
            IpAddr::V4(_) => 0x0800,
            IpAddr::V6(_) => 0x86dd,
        };
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(self.packet());
        bytes
    }

    /// The bytes of its IP packet.
    ///
    /// # Panics
    /// If its two addresses are of different versions.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let mut payload = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.payload_v4(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.payload_v6(source, destination),
            _ => panic!("addresses of two versions"),
        };
        payload.truncate(self.held.unwrap_or(usize::MAX));
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.packet_v4(source, destination, &payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.packet_v6(source, destination, &payload)
            }
            _ => panic!("addresses of two versions"),
        }
    }

    /// Where the IP header begins.
    #[must_use]
    pub fn ip_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the header of UDP, TCP or ICMP begins.
    #[must_use]
    pub fn transport_offset(&self) -> usize {
        let header = match self.source {
            IpAddr::V4(_) => 20 + self.options.len(),
            IpAddr::V6(_) => 40 + self.chain().iter().map(|e| e.bytes.len()).sum::<usize>(),
        };
        self.ip_offset() + header
    }

    /// Where the RPC header begins, or any datagram of UDP.
    #[must_use]
    pub fn rpc_offset(&self) -> usize {
        self.transport_offset() + 8
    }

    /// The client that sent it.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            source: self.source,
            tags: self.tags.clone(),
        }
    }

    fn protocol(&self) -> u8 {
        match (self.transport, self.source) {
            (Transport::Udp, _) => 17,
            (Transport::Tcp { .. }, _) => 6,
            (Transport::Icmp { .. }, IpAddr::V4(_)) => 1,
            (Transport::Icmp { .. }, IpAddr::V6(_)) => 58,
            (Transport::Other(protocol), _) => protocol,
        }
    }

    /// The extension headers, with the one that makes it a fragment.
    fn chain(&self) -> Vec<Extension> {
        let mut chain = self.extensions.clone();
        if self.fragment_offset != 0 || self.more_fragments {
            chain.push(Extension::fragment(
                self.fragment_offset,
                self.more_fragments,
            ));
        }
        chain
    }

    fn payload_v4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let (source, destination) = (source.octets(), destination.octets());
        let header = match self.transport {
            Transport::Udp => {
                let mut udp = self.udp_header();
                let sum = udp.calc_checksum_ipv4_raw(source, destination, &self.datagram);
                udp.checksum = sum.expect("short");
                udp.to_bytes().to_vec()
            }
            Transport::Tcp { flags } => {
                let mut tcp = self.tcp_header(flags);
                let sum = tcp.calc_checksum_ipv4_raw(source, destination, &self.datagram);
                tcp.checksum = sum.expect("short");
                tcp.to_bytes().to_vec()
            }
            Transport::Icmp { kind, code, rest } => {
                let icmp = Icmpv4Type::Unknown {
                    type_u8: kind,
                    code_u8: code,
                    bytes5to8: rest,
                };
                let header = Icmpv4Header::with_checksum(icmp, &self.datagram);
                header.to_bytes().to_vec()
            }
            Transport::Other(_) => Vec::new(),
        };
        [&header, &self.datagram[..]].concat()
    }

    fn payload_v6(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let (source, destination) = (source.octets(), destination.octets());
        let header = match self.transport {
            Transport::Udp => {
                let mut udp = self.udp_header();
                let sum = udp.calc_checksum_ipv6_raw(source, destination, &self.datagram);
                udp.checksum = sum.expect("short");
                udp.to_bytes().to_vec()
            }
            Transport::Tcp { flags } => {
                let mut tcp = self.tcp_header(flags);
                let sum = tcp.calc_checksum_ipv6_raw(source, destination, &self.datagram);
                tcp.checksum = sum.expect("short");
                tcp.to_bytes().to_vec()
            }
            Transport::Icmp { kind, code, rest } => {
                let icmp = Icmpv6Type::Unknown {
                    type_u8: kind,
                    code_u8: code,
                    bytes5to8: rest,
                };
                let header = Icmpv6Header::with_checksum(icmp, source, destination, &self.datagram);
                header.expect("short").to_bytes().to_vec()
            }
            Transport::Other(_) => Vec::new(),
        };
        [&header, &self.datagram[..]].concat()
    }

    fn udp_header(&self) -> UdpHeader {
        UdpHeader {
            source_port: self.source_port,
            destination_port: self.port,
            length: u16::try_from(8 + self.datagram.len()).expect("a datagram is short"),
            checksum: 0,
        }
    }

    fn tcp_header(&self, flags: u8) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.source_port, self.port, 1_000, 64_000);
        tcp.fin = flags & 1 != 0;
        tcp.syn = flags & 2 != 0;
        tcp.rst = flags & 4 != 0;
        tcp.psh = flags & 8 != 0;
        tcp.ack = flags & 16 != 0;
        tcp
    }

    fn packet_v4(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        let protocol = IpNumber(self.protocol());
        let (source, destination) = (source.octets(), destination.octets());
        let mut ip = Ipv4Header::new(0, self.hops, protocol, source, destination)
            .expect("an empty payload fits");
        ip.options = Ipv4Options::try_from(self.options.as_slice()).expect("options fit");
        ip.set_payload_len(payload.len()).expect("short");
        ip.dscp = IpDscp::try_new(self.traffic_class >> 2).expect("six bits");
        ip.ecn = IpEcn::try_new(self.traffic_class & 3).expect("two bits");
        ip.fragment_offset = IpFragOffset::try_new(self.fragment_offset).expect("an offset fits");
        ip.more_fragments = self.more_fragments;
        ip.dont_fragment = !self.more_fragments && self.fragment_offset == 0;
        ip.header_checksum = ip.calc_header_checksum();
        [&ip.to_bytes()[..], payload].concat()
    }

    fn packet_v6(&self, source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        let chain = self.chain();
        let (next_header, extensions) = Extension::chained(&chain, self.protocol());
        let len = extensions.len() + payload.len();
        let ip = Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: u16::try_from(len).expect("short"),
            next_header: IpNumber(next_header),
            hop_limit: self.hops,
            source: source.octets(),
            destination: destination.octets(),
        };
        [&ip.to_bytes()[..], &extensions, payload].concat()
    }
}

/// The ERROR frame that must answer a request with the fields of `request`.
#[must_use]
pub fn error_answer(request: &RpcHeader, status: Status, retry_after_ms: u32) -> Vec<u8> {
    Caller::new(CLIENT).error(request, status, retry_after_ms)
}
