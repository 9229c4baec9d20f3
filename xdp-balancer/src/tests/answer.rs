//! ERROR answers: their bytes, by an independent builder and parser.

use ebpf_common::{
    ids::{FunctionId, SlotId, WorkerId},
    maps::{Affinity, Counter, WorkerState},
    wire::{Kind, RpcHeader, Status, flags},
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::{counted, request, run, tables};
use crate::{
    DropReason, RETRY_AFTER_MS, Verdict, balance,
    testing::{
        HostPacket,
        frame::{CLIENT, Frame, RPC_OFFSET, VIP, error_answer},
    },
};

fn with_session_and_slot() -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_SESSION | flags::HAS_SLOT,
        session_id: 77,
        slot: SlotId(88),
        token: 99,
        ..request()
    }
}

#[test]
fn an_unknown_function_is_answered_with_the_requests_own_ids() {
    let header = RpcHeader {
        function: FunctionId(0xbad),
        ..with_session_and_slot()
    };
    let (verdict, after, counters) = run(
        &tables(Affinity::None),
        Frame::rpc(header, &[7; 500]).bytes(),
    );
    assert_eq!(verdict, Verdict::Tx);
    assert_eq!(counters, counted(Counter::ErrorUnknownFunction, &[]));
    assert_eq!(after, error_answer(&header, Status::UnknownFunction, 0));
}

#[test]
fn no_worker_and_no_owner_say_when_to_try_again() {
    let mut no_owner = tables(Affinity::Shard);
    no_owner.set_slot(SlotId(88), WorkerId::NONE);
    let header = with_session_and_slot();
    let (_, after, counters) = run(&no_owner, Frame::rpc(header, b"").bytes());
    assert_eq!(counters, counted(Counter::ErrorNoShardOwner, &[]));
    assert_eq!(
        after,
        error_answer(&header, Status::NoShardOwner, RETRY_AFTER_MS)
    );

    let mut no_worker = tables(Affinity::None);
    no_worker.add_worker(1, WorkerState::Down);
    no_worker.add_worker(2, WorkerState::Draining);
    let (_, after, counters) = run(&no_worker, Frame::rpc(header, b"").bytes());
    assert_eq!(
        counters,
        counted(Counter::ErrorNoWorker, &[Counter::WarmFull])
    );
    assert_eq!(
        after,
        error_answer(&header, Status::NoWorker, RETRY_AFTER_MS)
    );
}

#[test]
fn an_answer_to_a_bad_slot_parses_where_the_request_did_not() {
    let header = with_session_and_slot();
    let mut bytes = Frame::rpc(header, b"").bytes();
    bytes[RPC_OFFSET + 32] = 0x40;
    let (_, after, counters) = run(&tables(Affinity::Shard), bytes);
    assert_eq!(counters, counted(Counter::ErrorSlot, &[]));
    let (answer, _) = RpcHeader::parse(&after[RPC_OFFSET..]).unwrap().unwrap();
    assert_eq!(
        (answer.kind, answer.status),
        (Kind::Error, Status::Malformed as u16)
    );
    assert!(answer.has(flags::HAS_SESSION) && !answer.has(flags::HAS_SLOT));
}

#[test]
fn ip_options_and_padding_are_cut_off() {
    let header = RpcHeader {
        function: FunctionId(0xbad),
        ..request()
    };
    let frame = Frame {
        options: vec![1; 24],
        ..Frame::rpc(header, b"payload")
    };
    let mut bytes = frame.bytes();
    bytes.extend_from_slice(&[0xee; 30]);
    let (_, after, _) = run(&tables(Affinity::None), bytes);
    assert_eq!(after, error_answer(&header, Status::UnknownFunction, 0));
}

#[test]
fn a_ping_is_answered_like_a_request() {
    let header = RpcHeader {
        kind: Kind::Ping,
        function: FunctionId(0xbad),
        ..request()
    };
    let (verdict, after, _) = run(&tables(Affinity::None), Frame::rpc(header, b"").bytes());
    assert_eq!(verdict, Verdict::Tx);
    assert_eq!(after, error_answer(&header, Status::UnknownFunction, 0));
}

#[test]
fn a_driver_that_cannot_cut_the_frame_drops_it() {
    let header = RpcHeader {
        function: FunctionId(0xbad),
        ..request()
    };
    let mut packet = HostPacket::new(Frame::rpc(header, b"x").bytes());
    packet.refuses_cut = true;
    let tables = tables(Affinity::None);
    let verdict = balance(&mut packet, &tables);
    assert_eq!(verdict, Verdict::Drop(DropReason::NotRewritten));
    assert_eq!(
        tables.take_counters(),
        counted(Counter::DropNotRewritten, &[])
    );
}

#[test]
fn nothing_is_sent_to_a_source_that_is_not_one_host_and_port() {
    let header = RpcHeader {
        function: FunctionId(0xbad),
        ..request()
    };
    let whole = Frame::rpc(header, b"").bytes();
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = whole.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    for frame in [
        with(26, &[0, 0, 0, 0]),
        with(26, &[127, 0, 0, 1]),
        with(26, &[224, 0, 0, 1]),
        with(26, &[255, 255, 255, 255]),
        with(34, &[0, 0]),
    ] {
        let (verdict, after, counters) = run(&tables(Affinity::None), frame.clone());
        assert_eq!(verdict, Verdict::Drop(DropReason::BadSource));
        assert_eq!(after, frame);
        assert_eq!(counters, counted(Counter::DropBadSource, &[]));
    }
    for source in [[1, 0, 0, 1], [126, 0, 0, 1], [128, 0, 0, 1], [223, 0, 0, 1]] {
        let (verdict, _, _) = run(&tables(Affinity::None), with(26, &source));
        assert_eq!(verdict, Verdict::Tx);
    }
}

/// In UDP a checksum of 0 means that there is none, so a sum that comes out as 0 is sent as 0xffff.
#[test]
fn a_udp_checksum_is_never_zero() {
    let checksum_of_answer = |request_id| {
        let header = RpcHeader::request(FunctionId(0xbad), request_id);
        let (_, after, _) = run(&tables(Affinity::None), Frame::rpc(header, b"").bytes());
        u16::from_be_bytes([after[40], after[41]])
    };
    // Adding the checksum to one of the words summed makes the sum 0xffff, and its complement 0.
    let request_id = u64::from(checksum_of_answer(0));
    assert_eq!(checksum_of_answer(request_id), 0xffff);
}

proptest! {
    #[test]
    fn checksums_of_answers_are_right(request_id: u64, session_id: u64, function: u64, network in 1u8..127, host: [u8; 3], port in 1u16..) {
        let header = RpcHeader {
            flags: flags::FIRST | flags::LAST | flags::HAS_SESSION,
            session_id,
            ..RpcHeader::request(FunctionId(function), request_id)
        };
        prop_assume!(function != super::FUNCTION.0);
        let source = [network, host[0], host[1], host[2]];
        let mut bytes = Frame::rpc(header, b"payload").bytes();
        bytes[26..30].copy_from_slice(&source);
        bytes[34..36].copy_from_slice(&port.to_be_bytes());
        let (verdict, after, _) = run(&tables(Affinity::None), bytes);
        prop_assert_eq!(verdict, Verdict::Tx);

        let packet = SlicedPacket::from_ethernet(&after).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4") };
        let ip_header = ip.header().to_header();
        prop_assert_eq!(ip_header.header_checksum, ip_header.calc_header_checksum());
        prop_assert_eq!((ip_header.source, ip_header.destination), (VIP, source));
        let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("not UDP") };
        let expected = udp.to_header().calc_checksum_ipv4(&ip_header, udp.payload()).unwrap();
        prop_assert_eq!(udp.checksum(), expected);
        prop_assert_ne!(udp.checksum(), 0);
        let (answer, payload) = RpcHeader::parse(udp.payload()).unwrap().unwrap();
        prop_assert!(payload.is_empty());
        prop_assert_eq!((answer.request_id, answer.session_id), (request_id, session_id));
        prop_assert_ne!(CLIENT, VIP);
    }
}
