//! What is for a VIP and broken, but no request that could be answered, is dropped untouched.

use ebpf_common::{
    ids::SlotId,
    maps::{Affinity, Counter, name},
    wire::{RpcHeader, flags},
};
use prog_tests::program::{Action, Program};
use xdp_balancer::testing::frame::{Frame, RPC_OFFSET, UDP_OFFSET};

use crate::case::{Case, check_all, edited, frame, request, tables, warm_on};

fn dropped(name: &'static str, counter: Counter, edit: impl Fn(&mut [u8])) -> Case {
    Case::untouched(name, Action::Drop, counter, edited(edit))
}

#[test]
fn drops_bad_ipv4() {
    let bad_ip = Counter::DropBadIp;
    let headers = [
        dropped("version 5", bad_ip, |b| b[14] = 0x55),
        dropped("header of 4 words", bad_ip, |b| b[14] = 0x44),
        dropped("header longer than the packet", bad_ip, |b| {
            (b[14], b[17]) = (0x4f, 59)
        }),
        dropped("packet longer than the frame", bad_ip, |b| b[17] += 1),
        dropped("packet shorter than its header", bad_ip, |b| b[17] = 19),
    ];
    let short = Case::untouched(
        "33 bytes",
        Action::Drop,
        Counter::DropTruncatedIp,
        frame()[..33].to_vec(),
    );
    check_all(headers.into_iter().chain([short]));
}

#[test]
fn drops_ip_fragments() {
    let first = Frame {
        more_fragments: true,
        ..Frame::rpc(request(), b"payload")
    };
    let later = Frame {
        fragment_offset: 1,
        ..Frame::rpc(request(), b"payload")
    };
    let (fragment, bad) = (Counter::DropIpFragment, Counter::DropBadUdpLength);
    check_all([
        Case::untouched(
            "a first that lacks nothing",
            Action::Drop,
            bad,
            first.bytes(),
        ),
        Case::untouched("the last fragment", Action::Drop, fragment, later.bytes()),
    ]);
}

#[test]
fn drops_bad_udp() {
    check_all([
        dropped("no room for UDP", Counter::DropTruncatedUdp, |b| b[17] = 27),
        dropped("UDP longer than IPv4", Counter::DropBadUdpLength, |b| {
            b[UDP_OFFSET + 5] += 1
        }),
        dropped("UDP shorter than IPv4", Counter::DropBadUdpLength, |b| {
            b[UDP_OFFSET + 5] -= 1
        }),
        dropped("UDP length 0", Counter::DropBadUdpLength, |b| {
            b[UDP_OFFSET + 5] = 0
        }),
    ]);
}

#[test]
fn drops_what_is_no_request() {
    let kind = RPC_OFFSET + 3;
    let short = Frame::udp(request().emit()[..63].to_vec()).bytes();
    check_all([
        Case::untouched(
            "63 bytes of RPC",
            Action::Drop,
            Counter::DropTruncatedRpc,
            short,
        ),
        dropped("another magic", Counter::DropBadMagic, |b| {
            b[RPC_OFFSET] = 0
        }),
        dropped("kind 0", Counter::DropUnknownKind, |b| b[kind] = 0),
        dropped("kind 7", Counter::DropUnknownKind, |b| b[kind] = 7),
        dropped("a RESPONSE", Counter::DropUnexpectedKind, |b| b[kind] = 2),
        dropped("an ERROR", Counter::DropUnexpectedKind, |b| b[kind] = 3),
        dropped("a RETRY", Counter::DropUnexpectedKind, |b| b[kind] = 4),
        dropped("a LOAD", Counter::DropUnexpectedKind, |b| b[kind] = 5),
        dropped(
            "an ERROR of another version",
            Counter::DropUnexpectedKind,
            |b| {
                (b[kind], b[RPC_OFFSET + 2]) = (3, 2);
            },
        ),
    ]);
}

#[test]
fn drops_instead_of_answering_a_source_that_is_not_one_host_and_port() {
    let unknown = |edit: &dyn Fn(&mut [u8])| {
        edited(|b| {
            b[RPC_OFFSET + 16] = 0xff;
            edit(b);
        })
    };
    let bad_source =
        |name, frame| Case::untouched(name, Action::Drop, Counter::DropBadSource, frame);
    check_all([
        bad_source("multicast", unknown(&|b| b[26] = 224)),
        bad_source("loopback", unknown(&|b| b[26] = 127)),
        bad_source(
            "port 0",
            unknown(&|b| b[UDP_OFFSET..UDP_OFFSET + 2].fill(0)),
        ),
    ]);
}

#[test]
fn drops_when_a_worker_is_behind_an_interface_that_is_no_port() {
    let mut tables = tables(Affinity::None);
    for worker in tables.workers.values_mut() {
        worker.ifindex = 99;
    }
    let case = Case {
        tables,
        ..Case::untouched("no port", Action::Drop, Counter::DropNoPort, frame())
    };
    case.check();
}

#[test]
fn drops_when_a_table_is_too_short() {
    let on_slot = RpcHeader {
        flags: request().flags | flags::HAS_SLOT,
        slot: SlotId(8),
        ..request()
    };
    let mut short_slots = tables(Affinity::Shard);
    short_slots.slots_len = 8;
    let mut short_home = tables(Affinity::None);
    short_home.home.clear();
    short_home.home_len = 1;
    warm_on(&mut short_home, Affinity::None, &[]);
    for (header, map, entries, tables) in [
        (on_slot, name::SLOTS, 8, short_slots),
        (request(), name::HOME, 1, short_home),
    ] {
        let frame = Frame::rpc(header, b"payload").bytes();
        let case = Case {
            tables,
            ..Case::untouched(map, Action::Drop, Counter::DropNotConfigured, frame)
        };
        let mut program = Program::load(prog_tests::object(), &[(map, entries)]).unwrap();
        program.apply(&case.tables).unwrap();
        case.check_in(&mut program);
    }
}
