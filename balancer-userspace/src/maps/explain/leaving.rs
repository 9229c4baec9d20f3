//! The packet that comes out, read back: plain, encapsulated, or turned into an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ebpf_common::{
    tunnel::GUE_PORT,
    wire::{Kind, RpcHeader, Status},
};

use super::frame::{Question, hex};
use crate::{
    api::types::{OuterHeaders, PacketOut},
    mac::MacAddress,
};

const ICMP: u8 = 1;
const IPV4: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const ICMPV6: u8 = 58;

/// Bytes of the Ethernet header; what goes in has no VLAN tag, so what comes out has none.
const ETHERNET_LEN: usize = 14;
const UDP_LEN: usize = 8;

/// What an IP header says, and what follows it.
struct Ip<'p> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'p [u8],
}

impl<'p> Ip<'p> {
    /// The packet at the beginning of `bytes`; without options or extension headers, which nobody here adds.
    fn read(bytes: &'p [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = bytes.first_chunk()?;
                let v4 = |at: usize| Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?));
                Some(Self {
                    source: v4(12)?.into(),
                    destination: v4(16)?.into(),
                    protocol: header[9],
                    payload: bytes.get(usize::from(header[0] & 0xf) * 4..)?,
                })
            }
            6 => {
                let header: &[u8; 40] = bytes.first_chunk()?;
                let v6 = |at: usize| Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?));
                Some(Self {
                    source: v6(8)?.into(),
                    destination: v6(24)?.into(),
                    protocol: header[6],
                    payload: &bytes[40..],
                })
            }
            _ => None,
        }
    }

    /// The ports, where it has some.
    fn ports(&self) -> Option<[u16; 2]> {
        let [a, b, c, d] = *self.payload.first_chunk()?;
        matches!(self.protocol, TCP | UDP)
            .then(|| [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
    }

    /// What it is encapsulated in, if it is, and the packet within.
    fn inner(self) -> (Option<OuterHeaders>, Self) {
        let ports = self.ports();
        let (mode, source_port, packet) = match (self.protocol, ports) {
            (IPV4 | IPV6, _) => ("ipip", None, Self::read(self.payload)),
            (UDP, Some([source, GUE_PORT])) => {
                let packet = self.payload.get(UDP_LEN..).and_then(Self::read);
                ("gue", Some(source), packet)
            }
            _ => return (None, self),
        };
        let Some(packet) = packet else {
            return (None, self);
        };
        let outer = OuterHeaders {
            mode: mode.to_owned(),
            source: self.source,
            source_port,
            destination: self.destination,
        };
        (Some(outer), packet)
    }
}

/// What `frame`, which became of the packet of `question`, says.
pub(super) fn packet_out(frame: &[u8], question: &Question) -> Option<PacketOut> {
    let mac = |at: usize| Some(MacAddress::new(*frame.get(at..)?.first_chunk()?).to_string());
    let ip = Ip::read(frame.get(ETHERNET_LEN..)?)?;
    let is_plain = [question.vip.ip(), question.source.ip()].contains(&ip.destination);
    let (outer, ip) = if is_plain { (None, ip) } else { ip.inner() };
    let [source_port, destination_port] = ip.ports().unwrap_or_default();
    let header = (question.is_rpc && ip.protocol == UDP)
        .then(|| RpcHeader::parse(ip.payload.get(UDP_LEN..)?)?.ok())
        .flatten()
        .map(|(header, _)| header);
    Some(PacketOut {
        dst_mac: mac(0)?,
        src_mac: mac(6)?,
        outer,
        source: SocketAddr::new(ip.source, source_port),
        destination: SocketAddr::new(ip.destination, destination_port),
        kind: header
            .as_ref()
            .map_or_else(
                || protocol_name(ip.protocol),
                |header| kind_name(header.kind),
            )
            .to_owned(),
        status: header
            .filter(|header| header.kind == Kind::Error)
            .map(|header| status_name(header.status)),
        hex: hex(frame),
    })
}

const fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        TCP => "tcp",
        UDP => "udp",
        ICMP => "icmp",
        ICMPV6 => "icmpv6",
        _ => "other",
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Request => "request",
        Kind::Response => "response",
        Kind::Error => "error",
        Kind::Retry => "retry",
        Kind::Load => "load",
        Kind::Ping => "ping",
    }
}

fn status_name(code: u16) -> String {
    Status::from_code(code).map_or_else(|| code.to_string(), |status| status.name().to_owned())
}

#[cfg(test)]
mod tests {
    use ebpf_common::maps::VipKind;

    use super::*;
    use crate::api::types::ExplainRequest;

    fn question(vip: &str) -> Question {
        let request = ExplainRequest {
            function: Some("hello".to_owned()),
            ..ExplainRequest::to(vip.parse().unwrap())
        };
        Question::new(&request, Some(VipKind::Rpc)).unwrap()
    }

    /// `frame` with `outer` between its Ethernet header and its packet.
    fn wrapped(frame: &[u8], outer: &[u8]) -> Vec<u8> {
        [&frame[..14], outer, &frame[14..]].concat()
    }

    fn outer_v4(protocol: u8) -> Vec<u8> {
        let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        header.extend_from_slice(&[10, 77, 1, 2, 10, 80, 0, 11]);
        header
    }

    #[test]
    fn what_comes_out_is_read_through_any_encapsulation() {
        for vip in ["10.99.0.1:9000", "[fd99::1]:9000"] {
            let question = question(vip);
            let plain = packet_out(&question.frame, &question).unwrap();
            assert_eq!(
                (plain.source, plain.destination),
                (question.source, question.vip)
            );
            assert_eq!((plain.kind.as_str(), &plain.outer), ("request", &None));
            let inner = if question.vip.is_ipv4() { IPV4 } else { IPV6 };
            let mut gue = outer_v4(UDP);
            gue.extend_from_slice(&[0xc0, 1, 0x17, 0xc0, 0, 0, 0, 0]);
            for (outer, mode, port) in [(outer_v4(inner), "ipip", None), (gue, "gue", Some(0xc001))]
            {
                let out = packet_out(&wrapped(&question.frame, &outer), &question).unwrap();
                let read = out.outer.clone().unwrap();
                assert_eq!((read.mode.as_str(), read.source_port), (mode, port));
                assert_eq!(read.destination.to_string(), "10.80.0.11");
                assert_eq!(
                    (out.source, out.destination),
                    (plain.source, plain.destination)
                );
                assert_eq!(out.kind, "request");
            }
        }
    }

    #[test]
    fn a_packet_cut_off_anywhere_says_nothing_wrong() {
        let question = question("10.99.0.1:6080");
        let frame = wrapped(&question.frame, &outer_v4(IPV4));
        for len in 0..frame.len() {
            if let Some(out) = packet_out(&frame[..len], &question) {
                assert!(out.kind != "request" || len == frame.len(), "{len}");
            }
        }
    }
}
