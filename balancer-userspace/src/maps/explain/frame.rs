//! The packet that goes in, and the headers of the one that comes out.

use std::net::{Ipv4Addr, SocketAddrV4};

use ebpf_common::{
    hash::slot_of_key,
    ids::FunctionId,
    wire::{HEADER_LEN, Kind, RpcHeader, Status, flags},
};

use crate::{
    api::types::{ExplainRequest, PacketOut},
    mac::MacAddress,
};

const DEFAULT_SOURCE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 40_000);

// Offsets in a frame without VLAN tag and IP options, which is what goes in and comes out.
const IP: usize = 14;
const UDP: usize = IP + 20;
const RPC: usize = UDP + 8;
const FRAME_LEN: usize = RPC + HEADER_LEN;

pub(super) fn header(request: &ExplainRequest) -> RpcHeader {
    let mut header = RpcHeader::request(FunctionId::of(&request.function), rand::random());
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
    header
}

/// Ethernet, IPv4 without options, UDP without checksum (RFC 768 allows it), and the header.
pub(super) fn frame(request: &ExplainRequest, header: &RpcHeader) -> Vec<u8> {
    let source = request.source.unwrap_or(DEFAULT_SOURCE);
    let ip_len = (FRAME_LEN - IP) as u16;
    let udp_len = (FRAME_LEN - UDP) as u16;
    let mut frame = Vec::with_capacity(FRAME_LEN);
    // Locally administered addresses; the program overwrites them.
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&ip_len.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend_from_slice(&source.ip().octets());
    frame.extend_from_slice(&request.vip.ip().octets());
    let checksum = ipv4_checksum(&frame[IP..]);
    frame[IP + 10..IP + 12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend_from_slice(&source.port().to_be_bytes());
    frame.extend_from_slice(&request.vip.port().to_be_bytes());
    frame.extend_from_slice(&udp_len.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&header.emit());
    frame
}

/// RFC 1071, over a header whose checksum field is zero.
fn ipv4_checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks_exact(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

pub(super) fn packet_out(frame: &[u8]) -> Option<PacketOut> {
    let mac = |at: usize| Some(MacAddress::new(frame.get(at..at + 6)?.try_into().ok()?));
    let address = |ip_at: usize, port_at: usize| {
        let ip: [u8; 4] = frame.get(ip_at..ip_at + 4)?.try_into().ok()?;
        let port: [u8; 2] = frame.get(port_at..port_at + 2)?.try_into().ok()?;
        Some(SocketAddrV4::new(ip.into(), u16::from_be_bytes(port)))
    };
    let (header, _) = RpcHeader::parse(frame.get(RPC..)?)?.ok()?;
    Some(PacketOut {
        dst_mac: mac(0)?.to_string(),
        src_mac: mac(6)?.to_string(),
        source: address(IP + 12, UDP)?,
        destination: address(IP + 16, UDP + 2)?,
        kind: match header.kind {
            Kind::Request => "request",
            Kind::Response => "response",
            Kind::Error => "error",
            Kind::Retry => "retry",
            Kind::Load => "load",
            Kind::Ping => "ping",
        }
        .to_owned(),
        status: (header.kind == Kind::Error).then(|| {
            Status::from_code(header.status).map_or_else(
                || header.status.to_string(),
                |status| status.name().to_owned(),
            )
        }),
        hex: hex(frame),
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ExplainRequest {
        ExplainRequest {
            vip: "10.99.0.1:9000".parse().unwrap(),
            function: "hello".to_owned(),
            session: Some(7),
            shard_key: Some("foo".to_owned()),
            cookie: None,
            source: None,
        }
    }

    #[test]
    fn the_frame_is_what_the_request_says() {
        let request = request();
        let frame = frame(&request, &header(&request));
        assert_eq!(frame.len(), FRAME_LEN);
        let out = packet_out(&frame).unwrap();
        assert_eq!(out.source, DEFAULT_SOURCE);
        assert_eq!(out.destination, request.vip);
        assert_eq!(out.kind, "request");
        let (header, payload) = RpcHeader::parse(&frame[RPC..]).unwrap().unwrap();
        assert_eq!((header.session_id, header.slot.0), (7, 12_182));
        assert_eq!(payload, b"");
    }

    #[test]
    fn an_ipv4_header_with_its_checksum_sums_to_zero() {
        let request = request();
        let frame = frame(&request, &header(&request));
        assert_eq!(ipv4_checksum(&frame[IP..UDP]), 0);
    }
}
