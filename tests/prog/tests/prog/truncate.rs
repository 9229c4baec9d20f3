//! Every valid frame, cut at every length: dropped or answered, never passed, each under its reason.
//! (The kernel's test run takes no frame under 14 bytes; shorter ones are tested on the host.)

use std::collections::BTreeMap;

use ebpf_common::{
    ids::SlotId,
    maps::{Affinity, Counter},
    wire::{HEADER_LEN, Kind, RpcHeader, flags},
};
use prog_tests::program::{Action, Program};
use xdp_balancer::testing::{frame::Frame, rows};

use crate::case::{counted, request, tables};

/// Bytes below which the kernel's test run takes no frame.
const SHORTEST: usize = 14;

fn valid_frames() -> Vec<Frame> {
    let everything = RpcHeader {
        flags: request().flags | flags::HAS_SESSION | flags::HAS_SLOT | flags::HAS_COOKIE,
        session_id: 7,
        slot: SlotId(9),
        route_cookie: 11,
        ..request()
    };
    let ping = RpcHeader {
        kind: Kind::Ping,
        ..request()
    };
    let fragment = request().with_fragment(3, 5);
    let with_options = Frame {
        options: vec![1; 40],
        ..Frame::rpc(request(), b"payload")
    };
    vec![
        Frame::rpc(request(), b""),
        Frame::rpc(request(), &[3; 1_300]),
        Frame::rpc(everything, b"payload"),
        Frame::rpc(ping, b""),
        Frame::rpc(fragment, b"payload"),
        with_options,
    ]
}

/// Frames of every shape, both versions of IP and up to two tags.
#[test]
fn a_frame_cut_by_the_network_is_dropped() {
    let mut program = Program::load(prog_tests::object(), &[]).unwrap();
    program.apply(&rows::tables(Affinity::None)).unwrap();
    let shapes = rows::shapes()
        .into_iter()
        .map(|(name, frame)| (name, frame.carrying(rows::request(), b"payload")));
    let whole = valid_frames()
        .into_iter()
        .map(|frame| ("a valid one".to_owned(), frame));
    let mut expected = BTreeMap::new();
    for (name, frame) in shapes.chain(whole) {
        let whole = frame.bytes();
        let fixed = frame.ip_offset() + if frame.source.is_ipv4() { 20 } else { 40 };
        for len in SHORTEST..whole.len() {
            let (action, after) = program.run(&whole[..len]).unwrap();
            assert_eq!(action, Action::Drop, "{name}: {len} of {}", whole.len());
            assert_eq!(after, &whole[..len], "{name}: {len}");
            let reason = match len {
                len if len < frame.ip_offset() => Counter::DropTruncatedEthernet,
                len if len < fixed => Counter::DropTruncatedIp,
                _ => Counter::DropBadIp,
            };
            for counter in [Counter::Packets, reason] {
                *expected.entry(counter).or_default() += 1;
            }
        }
        assert_eq!(program.counters().unwrap(), expected, "{name}");
    }
    assert!(expected.contains_key(&Counter::DropTruncatedEthernet));
}

/// IPv4 and UDP say the shorter length themselves, as a sender that lies would have it.
#[test]
fn a_datagram_cut_by_its_sender_is_dropped_or_answered() {
    for frame in valid_frames() {
        let tables = tables(Affinity::None);
        let mut program = Program::load(prog_tests::object(), &[]).unwrap();
        program.apply(&tables).unwrap();
        let whole = frame.datagram.len();
        for len in 0..whole {
            let mut cut = frame.clone();
            cut.datagram.truncate(len);
            let (action, _) = program.run(&cut.bytes()).unwrap();
            let expected = if len < HEADER_LEN {
                Action::Drop
            } else {
                Action::Tx
            };
            assert_eq!(action, expected, "{len} of {whole}");
        }
        let answered = (whole - HEADER_LEN) as u64;
        assert_eq!(
            program.counters().unwrap(),
            counted(
                whole as u64,
                &[
                    (Counter::DropTruncatedRpc, HEADER_LEN as u64),
                    (Counter::ErrorLength, answered),
                ]
            )
        );
    }
}
