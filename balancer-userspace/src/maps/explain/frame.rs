//! The packet that goes in: what a client of the VIP would send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ebpf_common::{
    hash::slot_of_key,
    ids::FunctionId,
    limits::{MAX_FRAGMENT_PAYLOAD, MAX_MESSAGE},
    maps::VipKind,
    wire::{RpcHeader, flags},
};
use thiserror::Error;

use crate::api::types::{ExplainRequest, ExplainTransport};

const DEFAULT_PORT: u16 = 40_000;
const DEFAULT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DEFAULT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// First four bytes of what the kernel's pktgen sends (net/core/pktgen.c).
const PKTGEN_MAGIC: u32 = 0xbe9b_e955;
/// Bytes of a client's first QUIC datagram, at least (RFC 9000, section 14.1).
const QUIC_INITIAL_LEN: usize = 1_200;
/// Most bytes of a connection id (RFC 9000, section 17.2).
const CONNECTION_ID_MAX: usize = 20;
/// The first byte of a connection id that no server has chosen: configuration id 7, "unroutable"
/// (draft-ietf-quic-load-balancers, section 3.1).
const UNROUTABLE: u8 = 0xe0;

/// Why there is no such packet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PacketError {
    /// A packet has one IP version.
    #[error("the packet cannot come from {source_ip} to {vip}: one is IPv4 and the other IPv6")]
    Families {
        /// Source.
        source_ip: IpAddr,
        /// Destination.
        vip: IpAddr,
    },
    /// The VIP takes requests.
    #[error("{vip} is a VIP of kind rpc: name the function that is called")]
    NoFunction {
        /// Destination.
        vip: SocketAddr,
    },
    /// Only requests have one that somebody chooses.
    #[error("{vip} takes no requests, and only those have a payload: leave it out")]
    NoRequest {
        /// Destination.
        vip: SocketAddr,
    },
    /// Not bytes.
    #[error("the payload is not in hexadecimal digits, two for a byte")]
    Payload,
    /// No request carries that much.
    #[error("a payload of {len} bytes is too long: a request carries at most {MAX_MESSAGE}")]
    PayloadLen {
        /// Bytes.
        len: usize,
    },
    /// Not a connection id.
    #[error("`{text}` is no connection id: 1 to 20 bytes in hexadecimal digits")]
    ConnectionId {
        /// What was given.
        text: String,
    },
}

/// A packet, and what is known of it.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) source: SocketAddr,
    pub(super) vip: SocketAddr,
    /// Session and function of a request that has one.
    pub(super) session: Option<(u64, u64)>,
    /// The header of a request, and what lies behind it in this packet.
    pub(super) request: Option<(RpcHeader, Vec<u8>)>,
    /// Number of a packet of pktgen.
    pub(super) sequence: u32,
    /// What the VIP's kind makes of its payload: an RPC header or not.
    pub(super) is_rpc: bool,
    pub(super) frame: Vec<u8>,
}

impl Question {
    /// The packet that `request` describes, for a VIP of kind `kind`.
    pub(super) fn new(
        request: &ExplainRequest,
        kind: Option<VipKind>,
    ) -> Result<Self, PacketError> {
        let vip = request.vip;
        let source = request.source.unwrap_or_else(|| match vip {
            SocketAddr::V4(_) => (DEFAULT_V4, DEFAULT_PORT).into(),
            SocketAddr::V6(_) => (DEFAULT_V6, DEFAULT_PORT).into(),
        });
        let call = request.function.as_ref();
        let call = call.map(|name| first_fragment(request, name)).transpose()?;
        let sequence = request.sequence.unwrap_or(0);
        let takes_requests = matches!(kind, Some(VipKind::Rpc) | None) && call.is_some();
        let datagram = match (kind, &call) {
            (Some(VipKind::Rpc), None) => return Err(PacketError::NoFunction { vip }),
            _ if request.payload_hex.is_some() && !takes_requests => {
                return Err(PacketError::NoRequest { vip });
            }
            (Some(VipKind::Quic), _) => quic(request)?,
            (Some(VipKind::Pktgen), _) => pktgen(sequence),
            (Some(VipKind::L4), _) | (_, None) => Vec::new(),
            (_, Some((header, payload))) => [&header.emit(), payload.as_slice()].concat(),
        };
        let function = call.as_ref().map(|(header, _)| header.function.0);
        Ok(Self {
            frame: frame(source, vip, request.transport, &datagram)?,
            source,
            vip,
            session: request.session.zip(function),
            request: call,
            sequence,
            is_rpc: kind == Some(VipKind::Rpc),
        })
    }

    /// The words of the source address as they lie in memory, and the ports.
    pub(super) fn flow(&self) -> ([u64; 2], u32) {
        let words = match self.source.ip() {
            IpAddr::V4(address) => [u32::from_ne_bytes(address.octets()).into(), 0],
            IpAddr::V6(address) => zerocopy::transmute!(address.octets()),
        };
        let ports = u32::from(self.source.port()) << 16 | u32::from(self.vip.port());
        (words, ports)
    }
}

/// The number of the IP protocol.
pub(super) const fn protocol(transport: ExplainTransport) -> u8 {
    match transport {
        ExplainTransport::Udp => UDP,
        ExplainTransport::Tcp | ExplainTransport::TcpSyn => TCP,
    }
}

/// The packet that a client sends first: all of the request, or the first fragment of a long one.
fn first_fragment(
    request: &ExplainRequest,
    function: &str,
) -> Result<(RpcHeader, Vec<u8>), PacketError> {
    let digits = request.payload_hex.as_deref().unwrap_or("");
    let mut payload = unhex(digits).ok_or(PacketError::Payload)?;
    if payload.len() > MAX_MESSAGE {
        return Err(PacketError::PayloadLen { len: payload.len() });
    }
    let fragments = payload.len().div_ceil(MAX_FRAGMENT_PAYLOAD).max(1);
    payload.truncate(MAX_FRAGMENT_PAYLOAD);
    let header = RpcHeader {
        payload_len: payload.len() as u32,
        ..header(request, function)
    };
    Ok((header.with_fragment(0, fragments as u16), payload))
}

fn header(request: &ExplainRequest, function: &str) -> RpcHeader {
    let mut header = RpcHeader::request(FunctionId::of(function), rand::random());
    if let Some(session) = request.session {
        header.flags |= flags::HAS_SESSION;
        header.session_id = session;
    }
    if let Some(key) = &request.shard_key {
        header.flags |= flags::HAS_SLOT;
        header.slot = slot_of_key(key.as_bytes());
    }
    if let Some(cookie) = request.cookie {
        header.flags |= flags::HAS_COOKIE;
        header.route_cookie = cookie;
    }
    if let Some(token) = request.token {
        header.flags |= flags::HAS_TOKEN;
        header.token = token;
    }
    header
}

/// `struct pktgen_hdr`: magic, sequence number, and a time, which nobody reads.
fn pktgen(sequence: u32) -> Vec<u8> {
    let words = [PKTGEN_MAGIC, sequence, 0, 0];
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A datagram with a short header and the connection id asked for (RFC 9000, section 17.3), or a client's first one, whose
/// long header has an id of the client's choice (section 17.2.2).
fn quic(request: &ExplainRequest) -> Result<Vec<u8>, PacketError> {
    let Some(text) = &request.connection_id else {
        // Fixed bit and type Initial; version 1; an id of eight bytes.
        let mut datagram = vec![0xc0, 0, 0, 0, 1, 8, UNROUTABLE];
        datagram.extend_from_slice(&rand::random::<[u8; 7]>());
        datagram.resize(QUIC_INITIAL_LEN, 0);
        return Ok(datagram);
    };
    let wrong = || PacketError::ConnectionId { text: text.clone() };
    let id = unhex(text).ok_or_else(wrong)?;
    if !(1..=CONNECTION_ID_MAX).contains(&id.len()) {
        return Err(wrong());
    }
    let mut datagram = vec![0x40];
    datagram.extend_from_slice(&id);
    // A packet number and what is encrypted.
    datagram.extend_from_slice(&[0; 24]);
    Ok(datagram)
}

/// Ethernet, IP without options, and UDP or TCP with right checksums.
fn frame(
    source: SocketAddr,
    vip: SocketAddr,
    transport: ExplainTransport,
    payload: &[u8],
) -> Result<Vec<u8>, PacketError> {
    let mut segment = Vec::new();
    segment.extend_from_slice(&source.port().to_be_bytes());
    segment.extend_from_slice(&vip.port().to_be_bytes());
    let checksum_at = match transport {
        ExplainTransport::Udp => {
            let len = (8 + payload.len()) as u16;
            segment.extend_from_slice(&len.to_be_bytes());
            segment.extend_from_slice(&[0; 2]);
            6
        }
        ExplainTransport::Tcp | ExplainTransport::TcpSyn => {
            let flags = match transport {
                ExplainTransport::TcpSyn => TCP_SYN,
                _ => TCP_ACK,
            };
            // Sequence and acknowledgement, five words of header, flags, window; checksum and urgent pointer.
            segment
                .extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
    };
    segment.extend_from_slice(payload);
    let protocol = protocol(transport);
    let pseudo = pseudo_header(source.ip(), vip.ip(), protocol, segment.len());
    let checksum = match checksum(&[&pseudo, &segment]) {
        // UDP has none where it says 0 (RFC 768).
        0 => 0xffff,
        checksum => checksum,
    };
    segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    // Locally administered addresses; the program overwrites them.
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (source.ip(), vip.ip()) {
        (IpAddr::V4(source), IpAddr::V4(vip)) => {
            frame.extend_from_slice(&[0x08, 0x00]);
            frame.extend_from_slice(&ipv4(source, vip, protocol, segment.len()));
        }
        (IpAddr::V6(source), IpAddr::V6(vip)) => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend_from_slice(&(segment.len() as u16).to_be_bytes());
            frame.extend_from_slice(&[protocol, 64]);
            frame.extend_from_slice(&source.octets());
            frame.extend_from_slice(&vip.octets());
        }
        (source_ip, vip) => return Err(PacketError::Families { source_ip, vip }),
    }
    frame.extend_from_slice(&segment);
    Ok(frame)
}

fn ipv4(source: Ipv4Addr, vip: Ipv4Addr, protocol: u8, payload_len: usize) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((20 + payload_len) as u16).to_be_bytes());
    // Never fragmented.
    header[6] = 0x40;
    header[8..10].copy_from_slice(&[64, protocol]);
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&vip.octets());
    let checksum = checksum(&[&header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// What a checksum covers besides the segment (RFC 768; RFC 8200, section 8.1).
fn pseudo_header(source: IpAddr, vip: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut pseudo = Vec::new();
    for address in [source, vip] {
        match address {
            IpAddr::V4(address) => pseudo.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => pseudo.extend_from_slice(&address.octets()),
        }
    }
    pseudo.extend_from_slice(&(len as u32).to_be_bytes());
    pseudo.extend_from_slice(&u32::from(protocol).to_be_bytes());
    pseudo
}

/// RFC 1071, over `parts`, of which only the last may have an odd length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| (*low).into());
    let mut sum: u32 = words.map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.len() == 2)?;
        let is_hex = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hex.then(|| u8::from_str_radix(pair, 16).ok())?
    };
    digits.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(vip: &str) -> ExplainRequest {
        ExplainRequest::to(vip.parse().unwrap())
    }

    #[test]
    fn every_checksum_is_right() {
        for vip in ["10.99.0.1:9000", "[fd99::1]:9000"] {
            for transport in [
                ExplainTransport::Udp,
                ExplainTransport::Tcp,
                ExplainTransport::TcpSyn,
            ] {
                let request = ExplainRequest {
                    transport,
                    ..to(vip)
                };
                let question = Question::new(&request, Some(VipKind::L4)).unwrap();
                let (source, vip) = (question.source.ip(), question.vip.ip());
                let header = if vip.is_ipv4() { 20 } else { 40 };
                let segment = &question.frame[14 + header..];
                let pseudo = pseudo_header(source, vip, protocol(transport), segment.len());
                assert_eq!(checksum(&[&pseudo, segment]), 0, "{vip} {transport:?}");
                if vip.is_ipv4() {
                    assert_eq!(checksum(&[&question.frame[14..34]]), 0);
                }
            }
        }
    }

    #[test]
    fn the_kind_of_the_vip_decides_what_is_sent() {
        let at = |kind, request: &ExplainRequest| {
            Question::new(request, kind).map(|question| question.frame[42..].to_vec())
        };
        let plain = to("10.99.0.1:9000");
        let request = ExplainRequest {
            function: Some("hello".to_owned()),
            session: Some(7),
            shard_key: Some("foo".to_owned()),
            token: Some(9),
            ..plain.clone()
        };
        let payload = at(Some(VipKind::Rpc), &request).unwrap();
        let (header, rest) = RpcHeader::parse(&payload).unwrap().unwrap();
        assert_eq!(
            (header.session_id, header.slot.0, header.token),
            (7, 12_182, 9)
        );
        assert_eq!(rest, b"");
        let vip = plain.vip;
        assert_eq!(
            at(Some(VipKind::Rpc), &plain),
            Err(PacketError::NoFunction { vip })
        );
        let pktgen = ExplainRequest {
            sequence: Some(258),
            ..plain.clone()
        };
        assert_eq!(
            at(Some(VipKind::Pktgen), &pktgen).unwrap()[..8],
            [0xbe, 0x9b, 0xe9, 0x55, 0, 0, 1, 2]
        );
        let with_id = |id: &str| ExplainRequest {
            connection_id: Some(id.to_owned()),
            ..plain.clone()
        };
        let short = at(Some(VipKind::Quic), &with_id("26000301020304")).unwrap();
        assert_eq!(short[..8], [0x40, 0x26, 0, 3, 1, 2, 3, 4]);
        assert_eq!(
            at(Some(VipKind::Quic), &plain).unwrap().len(),
            QUIC_INITIAL_LEN
        );
        for id in ["", "0", "xy", "+1", &"00".repeat(21), "é"] {
            let refused = at(Some(VipKind::Quic), &with_id(id));
            assert!(
                matches!(refused, Err(PacketError::ConnectionId { .. })),
                "{id}"
            );
        }
    }

    #[test]
    fn a_payload_lies_behind_the_header_of_a_request() {
        let request = |len: usize| ExplainRequest {
            function: Some("hello".to_owned()),
            payload_hex: Some("61".repeat(len)),
            ..to("10.99.0.1:9000")
        };
        for (len, held, fragments) in [
            (0, 0, 1),
            (3, 3, 1),
            (MAX_FRAGMENT_PAYLOAD, MAX_FRAGMENT_PAYLOAD, 1),
            (MAX_FRAGMENT_PAYLOAD + 1, MAX_FRAGMENT_PAYLOAD, 2),
            (MAX_MESSAGE, MAX_FRAGMENT_PAYLOAD, 50),
        ] {
            let question = Question::new(&request(len), Some(VipKind::Rpc)).unwrap();
            let (header, payload) = RpcHeader::parse(&question.frame[42..]).unwrap().unwrap();
            assert_eq!(payload, b"a".repeat(held), "{len}");
            let fragment = (header.fragment_index, header.fragment_count);
            assert_eq!(fragment, (0, fragments), "{len}");
            assert_eq!(question.request.unwrap(), (header, payload.to_vec()));
        }
        let refused = |request: &ExplainRequest, kind| Question::new(request, kind).unwrap_err();
        let len = MAX_MESSAGE + 1;
        let too_long = refused(&request(len), Some(VipKind::Rpc));
        assert_eq!(too_long, PacketError::PayloadLen { len });
        let digits = ExplainRequest {
            payload_hex: Some("abc".to_owned()),
            ..request(0)
        };
        assert_eq!(refused(&digits, Some(VipKind::Rpc)), PacketError::Payload);
        let vip = digits.vip;
        for kind in [VipKind::L4, VipKind::Quic, VipKind::Pktgen] {
            let error = refused(&request(3), Some(kind));
            assert_eq!(error, PacketError::NoRequest { vip }, "{kind:?}");
        }
        let nothing_called = ExplainRequest {
            function: None,
            ..request(3)
        };
        assert_eq!(
            refused(&nothing_called, None),
            PacketError::NoRequest { vip }
        );
    }

    #[test]
    fn a_packet_has_one_ip_version() {
        let source = Some("192.0.2.1:1".parse().unwrap());
        let request = ExplainRequest {
            source,
            ..to("[fd99::1]:9000")
        };
        assert!(matches!(
            Question::new(&request, None),
            Err(PacketError::Families { .. })
        ));
    }
}
