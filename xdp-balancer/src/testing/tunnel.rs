//! Frames on their way to a worker, built by `etherparse` with its own checksums: what forwarding must make of a frame.

use ebpf_common::maps::{Config, ForwardMode, WorkerInfo, worker_flags};
use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpDscp, IpEcn, IpNumber, Ipv4Header,
    Ipv6FlowLabel, Ipv6Header, NetSlice, SlicedPacket, UdpHeader, icmpv4,
};

/// What `frame` must be when it has been sent to `worker` in mode `l2`.
///
/// # Panics
/// If it is not a whole frame.
#[must_use]
pub fn forwarded(frame: &[u8], worker: &WorkerInfo) -> Vec<u8> {
    let lowered = lowered(frame);
    [&worker.dst_mac, &worker.src_mac, lowered.split_at(12).1].concat()
}

/// `frame` with a hop limit lowered by one.
///
/// # Panics
/// If it is not a whole frame, or its hop limit is 0.
#[must_use]
pub fn lowered(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let ip = frame.split_off(link_len(&frame));
    let (header, rest) = match ip[0] >> 4 {
        4 => {
            let (mut header, rest) = Ipv4Header::from_slice(&ip).expect("whole");
            header.time_to_live -= 1;
            header.header_checksum = header.calc_header_checksum();
            (header.to_bytes().to_vec(), rest)
        }
        _ => {
            let (mut header, rest) = Ipv6Header::from_slice(&ip).expect("whole");
            header.hop_limit -= 1;
            (header.to_bytes().to_vec(), rest)
        }
    };
    [&frame, &header, rest].concat()
}

/// What `frame` must be when it has been sent to `worker` in `mode`.
///
/// # Panics
/// If it is not a whole frame.
#[must_use]
pub fn encapsulated(
    frame: &[u8],
    worker: &WorkerInfo,
    mode: ForwardMode,
    config: &Config,
) -> Vec<u8> {
    let inner = Inner::of(frame);
    let link = link_len(frame);
    let outer_v6 = worker.flags & worker_flags::OUTER_V6 != 0;
    let udp = (mode == ForwardMode::Gue).then(|| UdpHeader {
        source_port: 0xc000 | (inner.spread & 0xffff) as u16,
        destination_port: 6080,
        length: u16::try_from(inner.len + 8).expect("short"),
        checksum: 0,
    });
    let payload_len = inner.len + if udp.is_some() { 8 } else { 0 };
    let protocol = if udp.is_some() {
        IpNumber::UDP
    } else {
        inner.protocol
    };
    let (ether_type, ip) = if outer_v6 {
        let header = inner.outer_v6(worker, config, protocol, payload_len);
        (0x86dd_u16, header.to_bytes().to_vec())
    } else {
        let header = inner.outer_v4(worker, config, protocol, payload_len);
        (0x0800_u16, header.to_bytes().to_vec())
    };
    [
        &worker.dst_mac[..],
        &worker.src_mac,
        &frame[12..link - 2],
        &ether_type.to_be_bytes(),
        &ip,
        &udp.map(|udp| udp.to_bytes().to_vec()).unwrap_or_default(),
        &lowered(frame)[link..],
    ]
    .concat()
}

/// The answer to `frame`, whose packet is too big: that it may have `mtu` bytes, from its destination to its source.
///
/// # Panics
/// If it is not a whole frame.
#[must_use]
pub fn too_big_answer(frame: &[u8], mtu: u16) -> Vec<u8> {
    let link = link_len(frame);
    let packet = SlicedPacket::from_ethernet(frame).expect("whole");
    // As much as the largest answer holds, by words of eight bytes.
    let quote = |len: usize, longest: usize, room: usize| {
        let quoted = (len.min(longest) - room) / 8 * 8;
        frame[link..link + quoted].to_vec()
    };
    let headers_and_quote = match packet.net.expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header();
            let quote = quote(ip.total_len().into(), 576, 28);
            let too_big = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            let icmp =
                Icmpv4Header::with_checksum(Icmpv4Type::DestinationUnreachable(too_big), &quote);
            let payload_len = u16::try_from(8 + quote.len()).expect("short");
            let (source, destination) = (ip.destination(), ip.source());
            let mut header = Ipv4Header::new(payload_len, 64, IpNumber::ICMP, source, destination)
                .expect("fits");
            header.dscp = IpDscp::CS6;
            header.dont_fragment = true;
            header.header_checksum = header.calc_header_checksum();
            [&header.to_bytes()[..], &icmp.to_bytes(), &quote].concat()
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header();
            let quote = quote(40 + usize::from(ip.payload_length()), 1_280, 48);
            let (source, destination) = (ip.destination(), ip.source());
            let too_big = Icmpv6Type::PacketTooBig { mtu: mtu.into() };
            let icmp =
                Icmpv6Header::with_checksum(too_big, source, destination, &quote).expect("fits");
            let header = Ipv6Header {
                payload_length: u16::try_from(8 + quote.len()).expect("short"),
                next_header: IpNumber::IPV6_ICMP,
                hop_limit: 64,
                source,
                destination,
                ..Ipv6Header::default()
            };
            [&header.to_bytes()[..], &icmp.to_bytes(), &quote].concat()
        }
        NetSlice::Arp(_) => panic!("not an IP packet"),
    };
    [
        &frame[6..12],
        &frame[..6],
        &frame[12..link],
        &headers_and_quote,
    ]
    .concat()
}

struct Inner {
    len: usize,
    protocol: IpNumber,
    traffic_class: u8,
    spread: u32,
}

impl Inner {
    fn of(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).expect("whole");
        let net = packet.net.expect("an IP packet");
        let ports = ports(&net);
        match net {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                let flow = u64::from(u32::from_ne_bytes(header.source())) * (1 << 32) + ports;
                Self {
                    len: usize::from(header.total_len()),
                    protocol: IpNumber::IPV4,
                    traffic_class: header.dcp().value() << 2 | header.ecn().value(),
                    spread: upper(golden(flow)),
                }
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                let source = header.source();
                let high = u64::from_ne_bytes(source[..8].try_into().expect("eight"));
                let low = u64::from_ne_bytes(source[8..].try_into().expect("eight"));
                let source = golden(high).wrapping_add(low);
                Self {
                    len: 40 + usize::from(header.payload_length()),
                    protocol: IpNumber::IPV6,
                    traffic_class: header.traffic_class(),
                    spread: upper(golden(golden(source) ^ ports)),
                }
            }
            NetSlice::Arp(_) => panic!("not an IP packet"),
        }
    }

    fn outer_v4(
        &self,
        worker: &WorkerInfo,
        config: &Config,
        protocol: IpNumber,
        payload_len: usize,
    ) -> Ipv4Header {
        let mut source = config.tunnel_v4;
        if protocol != IpNumber::UDP {
            source[2] = (self.spread >> 8) as u8;
            source[3] = self.spread as u8;
        }
        let payload_len = u16::try_from(payload_len).expect("short");
        let mut header =
            Ipv4Header::new(payload_len, 64, protocol, source, worker.addr4).expect("short");
        header.dscp = IpDscp::try_new(self.traffic_class >> 2).expect("six bits");
        header.ecn = IpEcn::try_new(self.traffic_class & 3).expect("two bits");
        header.dont_fragment = true;
        header.header_checksum = header.calc_header_checksum();
        header
    }

    fn outer_v6(
        &self,
        worker: &WorkerInfo,
        config: &Config,
        protocol: IpNumber,
        payload_len: usize,
    ) -> Ipv6Header {
        let mut source = config.tunnel_v6;
        if protocol != IpNumber::UDP {
            source[12..].copy_from_slice(&self.spread.to_be_bytes());
        }
        Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: u16::try_from(payload_len).expect("short"),
            next_header: protocol,
            hop_limit: 64,
            source,
            destination: worker.addr6,
        }
    }
}

/// Source and destination port, as one number; 0 where there are none.
fn ports(net: &NetSlice<'_>) -> u64 {
    let payload = net.ip_payload_ref().expect("an IP packet");
    match payload.ip_number {
        // Also of a first fragment, of which etherparse does not read the transport header.
        IpNumber::UDP | IpNumber::TCP => payload.payload[..4]
            .iter()
            .fold(0, |ports, byte| ports * 256 + u64::from(*byte)),
        _ => 0,
    }
}

/// Where the IP packet begins in `frame`.
fn link_len(frame: &[u8]) -> usize {
    let mut offset = 12;
    while matches!(frame[offset..offset + 2], [0x81, 0x00] | [0x88, 0xa8]) {
        offset += 4;
    }
    offset + 2
}

/// Knuth's multiplicative hashing, by the golden ratio.
fn golden(word: u64) -> u64 {
    (u128::from(word) * 11_400_714_819_323_198_485) as u64
}

fn upper(word: u64) -> u32 {
    (word / (1 << 32)) as u32
}
