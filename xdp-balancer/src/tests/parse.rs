//! What is not ours passes; what is ours and broken is dropped or answered, each under its own reason.

use ebpf_common::{
    maps::{Affinity, Counter},
    wire::{HEADER_LEN, RpcHeader},
};
use proptest::prelude::*;

use super::{counted, request, run, tables};
use crate::{
    DropReason, Verdict,
    testing::frame::{Frame, RPC_OFFSET, UDP_OFFSET},
};

/// Edits the bytes of a good request and checks what becomes of it.
fn assert_edited(edit: impl Fn(&mut Vec<u8>), verdict: Verdict, counter: Counter) {
    let mut bytes = Frame::rpc(request(), b"payload").bytes();
    edit(&mut bytes);
    let before = bytes.clone();
    let (seen, after, counters) = run(&tables(Affinity::None), bytes);
    assert_eq!((seen, &counters), (verdict, &counted(counter, &[])));
    if verdict != Verdict::Tx {
        assert_eq!(after, before, "a frame that is not sent is not touched");
    }
}

fn assert_dropped(edit: impl Fn(&mut Vec<u8>), reason: DropReason) {
    assert_edited(edit, Verdict::Drop(reason), reason.counter());
}

fn assert_passed(edit: impl Fn(&mut Vec<u8>), counter: Counter) {
    assert_edited(edit, Verdict::Pass, counter);
}

fn assert_answered(edit: impl Fn(&mut Vec<u8>), counter: Counter) {
    assert_edited(edit, Verdict::Tx, counter);
}

#[test]
fn passes_what_is_not_ip() {
    let retyped = |ether_type: u16| {
        move |b: &mut Vec<u8>| b[12..14].copy_from_slice(&ether_type.to_be_bytes())
    };
    // Behind a tag that is none there is no IP either.
    for ether_type in [0x0806, 0x8035, 0x8100, 0x88a8] {
        assert_passed(retyped(ether_type), Counter::PassNotIp);
    }
    // No IPv6 packet, and not for a VIP's address if it were one.
    assert_passed(retyped(0x86dd), Counter::PassNotVip);
}

#[test]
fn passes_other_protocols_addresses_and_ports_even_when_broken() {
    assert_passed(|b| b[23] = 6, Counter::PassNotVip);
    assert_passed(|b| b[33] = 7, Counter::PassNotVip);
    assert_passed(|b| b[UDP_OFFSET + 3] = 7, Counter::PassNotVip);
    assert_passed(|b| (b[33], b[14]) = (7, 0x55), Counter::PassNotVip);
    assert_passed(|b| (b[33], b[20]) = (7, 0x20), Counter::PassNotVip);
    assert_passed(|b| (b[33], b[17]) = (7, 21), Counter::PassNotVip);
}

#[test]
fn passes_what_is_for_a_vip_of_no_known_kind() {
    let mut tables = tables(Affinity::None);
    for vip in tables.vips.values_mut() {
        vip.kind = 0;
    }
    let whole = Frame::rpc(request(), b"payload").bytes();
    let mut broken = whole.clone();
    broken[14] = 0x55;
    for frame in [whole, broken] {
        let (verdict, _, counters) = run(&tables, frame);
        assert_eq!(verdict, Verdict::Pass);
        assert_eq!(counters, counted(Counter::PassNotVip, &[]));
    }
}

#[test]
fn drops_ip_headers_that_contradict_the_frame() {
    assert_dropped(|b| b[14] = 0x55, DropReason::BadIp);
    assert_dropped(|b| b[14] = 0x44, DropReason::BadIp);
    assert_dropped(|b| (b[14], b[17]) = (0x4f, 59), DropReason::BadIp);
    assert_dropped(|b| b[17] += 1, DropReason::BadIp);
    assert_dropped(
        |b| b[16..18].copy_from_slice(&19u16.to_be_bytes()),
        DropReason::BadIp,
    );
}

#[test]
fn drops_ip_fragments_that_hold_no_whole_header() {
    assert_dropped(|b| b[21] = 1, DropReason::IpFragment);
    assert_dropped(|b| (b[20], b[21]) = (0x20, 1), DropReason::IpFragment);
    // One byte short of an RPC header.
    let cut = |b: &mut Vec<u8>| (b[17], b[20]) = (20 + 8 + 63, 0x20);
    assert_dropped(cut, DropReason::IpFragment);
}

#[test]
fn a_first_fragment_with_its_header_is_routed_and_one_that_lacks_nothing_is_dropped() {
    let missing = |b: &mut Vec<u8>| {
        b[20] = 0x20;
        b[UDP_OFFSET + 5] += 8;
        b[RPC_OFFSET + 47] += 8;
    };
    assert_answered(missing, Counter::RouteWarm);
    assert_dropped(|b| b[20] = 0x20, DropReason::BadUdpLength);
}

#[test]
fn drops_udp_shorter_than_its_header() {
    let shorten = |b: &mut Vec<u8>| b[16..18].copy_from_slice(&27u16.to_be_bytes());
    assert_dropped(shorten, DropReason::TruncatedUdp);
}

#[test]
fn drops_udp_lengths_that_contradict_ip() {
    assert_dropped(|b| b[UDP_OFFSET + 5] += 1, DropReason::BadUdpLength);
    assert_dropped(|b| b[UDP_OFFSET + 5] -= 1, DropReason::BadUdpLength);
    assert_dropped(|b| b[UDP_OFFSET + 5] = 0, DropReason::BadUdpLength);
}

#[test]
fn drops_datagrams_shorter_than_an_rpc_header() {
    for len in 0..HEADER_LEN {
        let frame = Frame::udp(request().emit()[..len].to_vec()).bytes();
        let (verdict, _, counters) = run(&tables(Affinity::None), frame);
        assert_eq!(verdict, Verdict::Drop(DropReason::TruncatedRpc), "{len}");
        assert_eq!(counters, counted(Counter::DropTruncatedRpc, &[]));
    }
}

#[test]
fn drops_what_is_not_our_protocol_or_not_for_a_vip() {
    assert_dropped(|b| b[RPC_OFFSET] = 0, DropReason::BadMagic);
    assert_dropped(|b| b[RPC_OFFSET + 3] = 0, DropReason::UnknownKind);
    assert_dropped(|b| b[RPC_OFFSET + 3] = 7, DropReason::UnknownKind);
    for kind in [2, 3, 4, 5] {
        assert_dropped(|b| b[RPC_OFFSET + 3] = kind, DropReason::UnexpectedKind);
    }
}

#[test]
fn never_answers_an_answer_whatever_else_is_wrong_with_it() {
    for (offset, value) in [(2, 9), (4, 0x80), (7, 1), (35, 9), (47, 9)] {
        let edit = |b: &mut Vec<u8>| (b[RPC_OFFSET + 3], b[RPC_OFFSET + offset]) = (3, value);
        assert_dropped(edit, DropReason::UnexpectedKind);
        let edit = |b: &mut Vec<u8>| (b[RPC_OFFSET + 3], b[RPC_OFFSET + offset]) = (9, value);
        assert_dropped(edit, DropReason::UnknownKind);
    }
}

#[test]
fn answers_each_malformed_header_under_its_own_reason() {
    assert_answered(|b| b[RPC_OFFSET + 2] = 2, Counter::ErrorVersion);
    assert_answered(|b| b[RPC_OFFSET + 4] = 0x80, Counter::ErrorFlags);
    assert_answered(|b| b[RPC_OFFSET + 7] = 63, Counter::ErrorHeaderLen);
    assert_answered(|b| b[RPC_OFFSET + 35] = 1, Counter::ErrorFragment);
    assert_answered(|b| b[RPC_OFFSET + 37] = 65, Counter::ErrorFragment);
    let bad_slot = |b: &mut Vec<u8>| (b[RPC_OFFSET + 5], b[RPC_OFFSET + 32]) = (0x62, 0x40);
    assert_answered(bad_slot, Counter::ErrorSlot);
    assert_answered(|b| b[RPC_OFFSET + 47] += 1, Counter::ErrorLength);
    assert_answered(|b| b[RPC_OFFSET + 44] = 1, Counter::ErrorLength);
}

#[test]
fn ethernet_padding_and_ip_options_change_nothing() {
    let padded = |b: &mut Vec<u8>| b.extend_from_slice(&[0xee; 9]);
    assert_answered(padded, Counter::RouteWarm);
    let frame = Frame {
        options: vec![1; 40],
        ..Frame::rpc(request(), b"payload")
    };
    let (verdict, _, counters) = run(&tables(Affinity::None), frame.bytes());
    assert_eq!(verdict, Verdict::Tx);
    assert_eq!(counters, counted(Counter::RouteWarm, &[]));
}

#[test]
fn a_frame_cut_at_any_length_is_never_passed() {
    for options in [0, 4, 40] {
        let whole = Frame {
            options: vec![1; options],
            ..Frame::rpc(request(), b"payload")
        }
        .bytes();
        for len in 0..whole.len() {
            let expected = match len {
                0..14 => DropReason::TruncatedEthernet,
                14..34 => DropReason::TruncatedIp,
                _ => DropReason::BadIp,
            };
            let (verdict, _, counters) = run(&tables(Affinity::None), whole[..len].to_vec());
            assert_eq!(verdict, Verdict::Drop(expected), "{len} of {}", whole.len());
            assert_eq!(counters, counted(expected.counter(), &[]));
        }
    }
}

/// A frame whose IPv4 and UDP lengths agree with a cut-off datagram: what a sender that lies would send.
#[test]
fn a_datagram_cut_at_any_length_is_dropped_or_answered() {
    let whole = [request().emit().as_slice(), b"payload"].concat();
    for len in 0..whole.len() {
        let (verdict, _, _) = run(
            &tables(Affinity::None),
            Frame::udp(whole[..len].to_vec()).bytes(),
        );
        assert_ne!(verdict, Verdict::Pass, "{len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn no_bytes_panic_and_each_packet_has_one_outcome(mut bytes in prop::collection::vec(any::<u8>(), 0..200), ours: bool) {
        if ours && bytes.len() >= 34 {
            bytes[12..14].copy_from_slice(&[8, 0]);
            bytes[23] = 17;
            bytes[30..34].copy_from_slice(&crate::testing::frame::VIP);
        }
        let (_, _, counters) = run(&tables(Affinity::Session), bytes);
        let outcomes: u64 = counters.iter().filter(|(c, _)| c.class().is_outcome()).map(|(_, n)| n).sum();
        prop_assert_eq!(counters[&Counter::Packets], 1);
        prop_assert_eq!(outcomes, 1);
    }

    #[test]
    fn flipped_bytes_of_a_request_have_one_outcome_and_never_grow(
        edits in prop::collection::vec((0usize..113, any::<u8>()), 0..6), session: u64, cookie: u64, flags in 0u16..0x400,
    ) {
        let header = RpcHeader { flags, session_id: session, route_cookie: cookie, ..request() };
        let mut bytes = Frame::rpc(header, b"payload").bytes();
        for (at, value) in edits {
            bytes[at] = value;
        }
        let len = bytes.len();
        let (_, after, counters) = run(&tables(Affinity::Session), bytes);
        let outcomes: u64 = counters.iter().filter(|(c, _)| c.class().is_outcome()).map(|(_, n)| n).sum();
        prop_assert_eq!(outcomes, 1);
        prop_assert!(after.len() <= len);
    }
}
