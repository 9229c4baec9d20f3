//! Tests that the harness presents what it claims: the kernel's frame against one that is put together here.

use std::collections::HashSet;

use blast::Scene;
use ebpf_common::{
    ids::{FunctionId, SlotId},
    traffic::{Template, carries, undo, vary},
    wire::RpcHeader,
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::{
    cases::{self, Case},
    harness::Harness,
};

/// The fields of a frame that differ from flow to flow, as an independent parser reads them.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    source: u32,
    port: u16,
    rpc: Option<RpcHeader>,
    /// The worker and the nonce in the connection id of a QUIC packet with a short header.
    connection: Option<(u16, u64)>,
}

/// By the draft's figure: three bits of configuration, five of length, the server id, the nonce.
fn connection(datagram: &[u8]) -> Option<(u16, u64)> {
    let [first, head, high, low, nonce @ ..] = datagram else {
        return None;
    };
    if *first != 0x40 || *head != 2 << 5 | 7 {
        return None;
    }
    let [a, b, c, d, e] = *nonce.first_chunk()?;
    let nonce = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]);
    Some((u16::from_be_bytes([*high, *low]), nonce))
}

fn seen(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let source = match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => ip.header().source(),
        NetSlice::Ipv6(ip) => *ip.header().source().last_chunk().unwrap(),
        NetSlice::Arp(_) => panic!("not IP"),
    };
    let (port, rpc, connection) = match packet.transport.unwrap() {
        TransportSlice::Udp(udp) => {
            let rpc = RpcHeader::parse(udp.payload()).and_then(Result::ok);
            let rpc = rpc.map(|(header, _payload)| header);
            (udp.source_port(), rpc, connection(udp.payload()))
        }
        TransportSlice::Tcp(tcp) => (tcp.source_port(), None, None),
        other => panic!("{other:?}"),
    };
    Seen {
        source: u32::from_be_bytes(source),
        port,
        rpc,
        connection,
    }
}

fn expected(scene: &Scene, number: u64, cookies: &[u64]) -> Seen {
    let template: &Template = &scene.template;
    let fields = template.fields(number);
    let mut seen = seen(&scene.frame);
    seen.source = fields.source;
    seen.port = fields.port;
    if template.varies(vary::CONNECTION) {
        let nonce = fields.session & 0xff_ffff_ffff;
        seen.connection = Some((fields.flow as u16 % 16, nonce));
    }
    assert_eq!(seen.rpc.is_some(), template.carries == carries::RPC);
    if let Some(rpc) = &mut seen.rpc {
        rpc.request_id = fields.request_id;
        if template.varies(vary::FUNCTION) {
            rpc.function = FunctionId(fields.function);
        }
        if template.varies(vary::SESSION | vary::NEW_SESSION) {
            rpc.session_id = fields.session;
        }
        if template.varies(vary::SLOT) {
            rpc.slot = SlotId(fields.slot);
        }
        if template.varies(vary::COOKIE) {
            rpc.route_cookie = cookies[fields.flow as usize];
        }
    }
    seen
}

/// Every byte that no field of [`Seen`] covers.
fn rest(scene: &Scene, frame: &[u8]) -> Vec<u8> {
    let template = &scene.template;
    let mut bytes = frame.to_vec();
    let mut clear = |from: usize, len: usize| bytes[from..from + len].fill(0);
    clear(template.source_offset(), 4);
    clear(template.ports_offset(), 2);
    if template.varies(vary::CONNECTION) {
        clear(template.rpc_offset() + 1, 8);
    }
    if template.carries == carries::RPC {
        clear(template.rpc_offset() + 8, 26);
        clear(template.rpc_offset() + 48, 8);
    }
    bytes
}

#[test]
fn each_case_presents_the_flows_that_it_claims() {
    let mut harness = Harness::load().unwrap();
    let cookies: Vec<u64> = (0..1_u64 << 20).map(|flow| flow * 3 + 1).collect();
    harness.set_cookies(&cookies).unwrap();
    for Case { name, scene, .. } in cases::all() {
        for number in [0, 1, 1_000, 123_456, (1 << 20) + 5] {
            let frame = harness.presented(&scene, number).unwrap();
            assert_eq!(
                seen(&frame),
                expected(&scene, number, &cookies),
                "{name} {number}"
            );
            assert_eq!(rest(&scene, &frame), rest(&scene, &scene.frame), "{name}");
        }
    }
}

#[test]
fn the_first_packet_of_a_connection_is_one_and_none_comes_again() {
    let mut harness = Harness::load().unwrap();
    for Case { name, scene, .. } in cases::all()
        .into_iter()
        .filter(|it| it.rule == "flow_new" || it.rule == "flow")
    {
        let mut sources = HashSet::new();
        for number in (0..1_u64 << 21).step_by(1 << 13) {
            let frame = harness.presented(&scene, number).unwrap();
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            if let Some(TransportSlice::Tcp(tcp)) = packet.transport {
                let is_new = name.starts_with("flow_new/");
                assert_eq!((tcp.syn(), tcp.ack()), (is_new, !is_new), "{name}");
            }
            let Seen { source, port, .. } = seen(&frame);
            sources.insert((source, port));
        }
        if scene.template.varies(vary::NEW_SOURCE) {
            assert_eq!(sources.len(), 1 << 8, "{name}");
        }
    }
}

#[test]
fn checksums_are_right_where_they_are_asked_for() {
    let mut harness = Harness::load().unwrap();
    harness
        .set_cookies(&vec![0xdead_beef_0bad_cafe; 1 << 20])
        .unwrap();
    let all = cases::all();
    for Case { name, scene, .. } in all
        .iter()
        .filter(|it| it.scene.template.carries == carries::RPC)
    {
        let scene = scene.clone().with_checksums();
        for number in [0, 77, 0xffff_ffff_ffff] {
            let frame = harness.presented(&scene, number).unwrap();
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(TransportSlice::Udp(udp)) = packet.transport else {
                panic!("{name}: not UDP");
            };
            let header = udp.to_header();
            let expected = match packet.net.unwrap() {
                NetSlice::Ipv4(ip) => {
                    let ip = ip.header().to_header();
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "{name}");
                    header.calc_checksum_ipv4(&ip, udp.payload()).unwrap()
                }
                NetSlice::Ipv6(ip) => {
                    let ip = ip.header().to_header();
                    header.calc_checksum_ipv6(&ip, udp.payload()).unwrap()
                }
                NetSlice::Arp(_) => panic!("not IP"),
            };
            assert_eq!(header.checksum, expected, "{name} {number}");
        }
    }
}

#[test]
fn what_the_program_under_test_does_to_the_length_is_undone() {
    let mut harness = Harness::load().unwrap();
    for (program, undoes) in [("op_grow", undo::HEAD), ("op_cut", undo::TAIL)] {
        let case = cases::all().swap_remove(1);
        let scene = case.scene.undoing(undoes);
        harness.show(&scene).unwrap();
        let target = harness.target(program).unwrap();
        harness.aim(&target).unwrap();
        // A frame that is not undone is refused by the harness before long: it grows out of its buffer, or gets too
        // short for its headers; and each run checks that every packet was presented.
        harness.run(&scene, 1_000, crate::harness::TX).unwrap();
        let target = harness.target("tx").unwrap();
        harness.aim(&target).unwrap();
        assert_eq!(
            harness.presented(&scene, 7).unwrap().len(),
            scene.frame.len()
        );
    }
}
