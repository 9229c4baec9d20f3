//! The headers down to the ports: what is read whatever stands between, what is not ours, and what is broken.

use ebpf_common::{
    maps::{Affinity, Counter, ForwardMode},
    wire::Status,
};

use super::{Group, Row, envelopes, extensions, request, tables};
use crate::{
    DropReason, NotOurs,
    testing::{
        extension::{self, Extension},
        frame::{Frame, Transport},
    },
};

/// Every way in which a frame may be put together and still be routed.
#[must_use]
pub fn shapes() -> Vec<(String, Frame)> {
    let mut shapes = envelopes();
    for (name, frame) in envelopes() {
        if frame.source.is_ipv4() {
            for len in [4, 20, 40] {
                let options = vec![1; len];
                let frame = Frame {
                    options,
                    ..frame.clone()
                };
                shapes.push((format!("{name}, {len} bytes of options"), frame));
            }
        } else {
            for (what, chain) in chains() {
                let extensions = chain;
                let frame = Frame {
                    extensions,
                    ..frame.clone()
                };
                shapes.push((format!("{name}, {what}"), frame));
            }
        }
    }
    shapes
}

/// Each extension header alone, and the longest chains.
fn chains() -> Vec<(String, Vec<Extension>)> {
    let mut chains: Vec<_> = extensions()
        .into_iter()
        .map(|(name, extension)| (name.to_owned(), vec![extension]))
        .collect();
    let options = Extension::options(extension::DESTINATION, 0);
    for len in 2..=4 {
        let chain = vec![options.clone(); len];
        chains.push((format!("{len} of destination"), chain));
    }
    let hop_by_hop = Extension::options(extension::HOP_BY_HOP, 1);
    let one_of_each = vec![
        hop_by_hop,
        Extension::routing(0),
        Extension::fragment(0, false),
        options,
    ];
    chains.push(("one of each".to_owned(), one_of_each));
    chains
}

/// The rows of the parse stage.
#[must_use]
pub fn headers() -> Vec<Group> {
    let tables = tables(Affinity::None);
    let rows = [
        routed(&tables),
        tagged(),
        chained(),
        fragments(&tables),
        cut_by_the_sender(),
        protocols(),
    ];
    vec![Group {
        name: "headers".to_owned(),
        tables,
        rows: rows.into_iter().flatten().collect(),
    }]
}

fn routed(tables: &super::FakeTables) -> Vec<Row> {
    let sent = |(name, frame): (String, Frame)| {
        let plain = frame.carrying(request(), b"payload").bytes();
        let padded = [plain.clone(), vec![0xee; 11]].concat();
        [(name.clone(), plain), (format!("{name}, padded"), padded)].map(|(name, frame)| {
            let counters = [Counter::RouteWarm];
            Row::sent(name, tables, ForwardMode::L2, 1, frame, &counters)
        })
    };
    shapes().into_iter().flat_map(sent).collect()
}

/// More tags than are read, tags with no IP behind, and frames that end in a tag.
fn tagged() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, frame) in envelopes() {
        let whole = frame.carrying(request(), b"payload");
        let three = Frame {
            tags: vec![7, 8, 9],
            ..whole.clone()
        };
        rows.push(Row::passed(
            format!("{name}: three"),
            NotOurs::NotIp,
            three.bytes(),
        ));
        let mut arp = whole.bytes();
        let ether_type = frame.ip_offset() - 2;
        arp[ether_type..ether_type + 2].copy_from_slice(&[8, 6]);
        let tagged = arp[..ether_type].to_vec();
        rows.push(Row::passed(format!("{name}: ARP"), NotOurs::NotIp, arp));
        // The kernel runs no program on fewer bytes than an untagged header has.
        if tagged.len() > 14 {
            let reason = DropReason::TruncatedEthernet;
            rows.push(Row::dropped(
                format!("{name}: ends in a tag"),
                reason,
                tagged,
            ));
        }
    }
    rows
}

/// Chains over the bound, headers that lead elsewhere, and headers that lie about their length.
fn chained() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, frame) in envelopes().into_iter().filter(|(_, f)| f.source.is_ipv6()) {
        let with = |extensions: Vec<Extension>| {
            let frame = Frame {
                extensions,
                ..frame.clone()
            };
            frame.carrying(request(), b"payload").bytes()
        };
        let options = Extension::options(extension::DESTINATION, 0);
        let last = Extension::fragment(0, false);
        for (what, chain) in [
            ("five", vec![options.clone(); 5]),
            ("six", vec![options.clone(); 6]),
            (
                "a fragment as the fifth",
                [vec![options.clone(); 4], vec![last]].concat(),
            ),
        ] {
            let reason = DropReason::TooManyHeaders;
            rows.push(Row::dropped(format!("{name}: {what}"), reason, with(chain)));
        }
        rows.push(Row::passed(
            format!("{name}: segments are left"),
            NotOurs::NotVip,
            with(vec![Extension::routing(1)]),
        ));
        // Encrypted (ESP), authenticated, nothing at all (59), mobility, HIP, shim6: read by nobody here.
        for protocol in [50, 51, 59, 135, 139, 140] {
            let other = Extension {
                protocol,
                ..options.clone()
            };
            for chain in [vec![other.clone()], vec![options.clone(), other]] {
                let what = format!("{name}: protocol {protocol} behind {}", chain.len() - 1);
                rows.push(Row::passed(what, NotOurs::NotVip, with(chain)));
            }
        }
        // A header that says it is longer than the packet.
        let at = frame.ip_offset() + 40 + 1;
        for units in [12, 100, 255] {
            let mut lie = with(vec![options.clone()]);
            lie[at] = units;
            let what = format!("{name}: says {units} units");
            rows.push(Row::dropped(what, DropReason::BadIp, lie));
        }
    }
    rows
}

fn fragments(tables: &super::FakeTables) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, frame) in shapes() {
        let whole = frame.carrying(request(), &[7; 200]);
        // UDP, RPC, and that many bytes of the payload are in it.
        for (payload, what) in [(0, "headers alone"), (8, "a beginning")] {
            let first = Frame {
                more_fragments: true,
                held: Some(8 + 64 + payload),
                ..whole.clone()
            };
            rows.extend(first_fragment(
                tables,
                &format!("{name}: first, {what}"),
                &first,
            ));
        }
        for held in [0, 1, 8, 8 + 63] {
            let first = Frame {
                more_fragments: true,
                held: Some(held),
                ..whole.clone()
            };
            let what = format!("{name}: first with {held} bytes");
            rows.extend(short_fragment(&what, &first));
        }
        for (offset, more) in [(1, true), (1, false), (0x1fff, false)] {
            let later = Frame {
                fragment_offset: offset,
                more_fragments: more,
                ..whole.clone()
            };
            let what = format!("{name}: later at {offset}");
            rows.extend(short_fragment(&what, &later));
        }
    }
    rows
}

/// Whether the chain, with the header that makes it a fragment, is longer than is read.
fn is_too_long(frame: &Frame) -> bool {
    frame.source.is_ipv6() && frame.extensions.len() >= 4
}

fn first_fragment(tables: &super::FakeTables, name: &str, frame: &Frame) -> Option<Row> {
    if is_too_long(frame) {
        let reason = DropReason::TooManyHeaders;
        return Some(Row::dropped(name, reason, frame.bytes()));
    }
    let counters = [Counter::RouteWarm];
    Some(Row::sent(
        name,
        tables,
        ForwardMode::L2,
        1,
        frame.bytes(),
        &counters,
    ))
}

fn short_fragment(name: &str, frame: &Frame) -> Option<Row> {
    let reason = if is_too_long(frame) {
        DropReason::TooManyHeaders
    } else {
        DropReason::IpFragment
    };
    Some(Row::dropped(name, reason, frame.bytes()))
}

/// Lengths agree with the frame wherever it is cut: what a sender that lies would send.
fn cut_by_the_sender() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, frame) in shapes() {
        let whole = frame.carrying(request(), b"payload");
        let (ip, transport) = (frame.ip_offset(), frame.transport_offset());
        // Behind the fixed IP header: in options and extension headers, and in UDP's header.
        let fixed = ip + if frame.source.is_ipv4() { 20 } else { 40 };
        // Of the longest header not every byte: what matters is where it begins and where it ends.
        let step = if transport - fixed > 100 { 61 } else { 1 };
        for len in (fixed..transport)
            .step_by(step)
            .chain(transport..transport + 9)
        {
            let cut = cut_at(&whole, len);
            let reason = match len {
                len if len < transport => DropReason::BadIp,
                len if len < transport + 8 => DropReason::TruncatedUdp,
                _ => DropReason::BadUdpLength,
            };
            // Where an extension header has just ended, what follows it is still too short: the same reason.
            rows.push(Row::dropped(format!("{name}: cut at {len}"), reason, cut));
        }
        let mut payload = whole.datagram.clone();
        for len in (0..payload.len()).rev() {
            payload.truncate(len);
            let cut = Frame {
                datagram: payload.clone(),
                ..whole.clone()
            };
            let what = format!("{name}: a datagram of {len}");
            rows.push(if len < 64 {
                Row::dropped(what, DropReason::TruncatedRpc, cut.bytes())
            } else {
                let answer = whole.caller().error(&request(), Status::Malformed, 0);
                Row::answered(what, cut.bytes(), answer, &[Counter::ErrorLength])
            });
        }
    }
    rows
}

/// The frame cut to `len` bytes, with an IP length that agrees.
fn cut_at(frame: &Frame, len: usize) -> Vec<u8> {
    let mut cut = frame.bytes();
    cut.truncate(len);
    let ip = frame.ip_offset();
    let (at, ip_len) = if frame.source.is_ipv4() {
        (ip + 2, len - ip)
    } else {
        (ip + 4, len - ip - 40)
    };
    let ip_len = u16::try_from(ip_len).expect("short");
    cut[at..at + 2].copy_from_slice(&ip_len.to_be_bytes());
    cut
}

/// Protocols and ports that no VIP has, also where the rest is broken.
fn protocols() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, frame) in envelopes() {
        let passed = |what: &str, frame: Frame| {
            Row::passed(format!("{name}: {what}"), NotOurs::NotVip, frame.bytes())
        };
        let tcp = Frame {
            transport: Transport::Tcp { flags: 2 },
            ..frame.clone()
        };
        let other = Frame {
            transport: Transport::Other(47),
            datagram: vec![0; 40],
            ..frame.clone()
        };
        let echo = Frame {
            transport: Transport::Icmp {
                kind: if frame.source.is_ipv4() { 8 } else { 128 },
                code: 0,
                rest: [0, 1, 0, 2],
            },
            datagram: vec![0; 40],
            ..frame.clone()
        };
        let port = Frame {
            port: 9,
            ..frame.carrying(request(), b"payload")
        };
        rows.extend([
            passed("TCP", tcp),
            passed("GRE", other),
            passed("an echo request", echo),
            passed("another port", port),
        ]);
        let mut elsewhere = frame.carrying(request(), b"payload");
        let mut away = elsewhere.bytes();
        // The last byte of the destination, and a broken length.
        let end = frame.ip_offset() + if frame.source.is_ipv4() { 20 } else { 40 };
        away[end - 1] = 9;
        let len_at = frame.ip_offset() + if frame.source.is_ipv4() { 2 } else { 4 };
        away[len_at] = 0xff;
        rows.push(Row::passed(
            format!("{name}: broken, elsewhere"),
            NotOurs::NotVip,
            away,
        ));
        elsewhere.hops = 1;
        rows.push(Row::dropped(
            format!("{name}: the last hop"),
            DropReason::HopLimit,
            elsewhere.bytes(),
        ));
    }
    rows
}
