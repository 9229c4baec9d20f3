//! Requests that are answered: the ERROR packet, to the byte.

use ebpf_common::{
    ids::{FunctionId, SlotId, WorkerId},
    maps::{Affinity, Counter, WorkerState},
    wire::{Kind, RpcHeader, Status, flags},
};
use prog_tests::program::Action;
use xdp_balancer::{
    RETRY_AFTER_MS,
    testing::{
        FakeTables,
        frame::{Frame, RPC_OFFSET, error_answer},
    },
};

use crate::case::{Case, Expect, check_all, edited, request, tables};

fn answered(name: &'static str, frame: Vec<u8>, counter: Counter, status: Status) -> Case {
    Case {
        name,
        tables: tables(Affinity::None),
        frame,
        expect: Expect {
            action: Action::Tx,
            frame: error_answer(&request(), status, 0),
            counters: vec![counter],
        },
    }
}

#[test]
fn answers_malformed_headers() {
    let malformed = |name, counter, edit: &dyn Fn(&mut [u8])| {
        answered(name, edited(edit), counter, Status::Malformed)
    };
    check_all([
        malformed("an unknown flag", Counter::ErrorFlags, &|b| {
            b[RPC_OFFSET + 4] = 0x80
        }),
        malformed(
            "the first flag without a meaning",
            Counter::ErrorFlags,
            &|b| b[RPC_OFFSET + 4] = 0x20,
        ),
        malformed("header length 72", Counter::ErrorHeaderLen, &|b| {
            b[RPC_OFFSET + 7] = 72
        }),
        malformed("index 1 of 1", Counter::ErrorFragment, &|b| {
            b[RPC_OFFSET + 35] = 1
        }),
        malformed("65 fragments", Counter::ErrorFragment, &|b| {
            b[RPC_OFFSET + 37] = 65
        }),
        malformed("no fragments", Counter::ErrorFragment, &|b| {
            b[RPC_OFFSET + 37] = 0
        }),
        malformed("FIRST missing", Counter::ErrorFragment, &|b| {
            b[RPC_OFFSET + 5] ^= 0x20
        }),
        malformed("longer than it is", Counter::ErrorLength, &|b| {
            b[RPC_OFFSET + 47] += 1
        }),
        malformed("shorter than it is", Counter::ErrorLength, &|b| {
            b[RPC_OFFSET + 47] -= 1
        }),
    ]);
}

#[test]
fn answers_another_version() {
    let frame = edited(|b| b[RPC_OFFSET + 2] = 2);
    answered(
        "version 2",
        frame,
        Counter::ErrorVersion,
        Status::UnsupportedVersion,
    )
    .check();
}

#[test]
fn answers_a_slot_out_of_range_without_repeating_it_as_one() {
    let header = RpcHeader {
        flags: request().flags | flags::HAS_SLOT | flags::HAS_SESSION,
        session_id: 7,
        ..request()
    };
    let mut frame = Frame::rpc(header, b"").bytes();
    frame[RPC_OFFSET + 32] = 0x40;
    let echoed = RpcHeader {
        flags: header.flags & !flags::HAS_SLOT,
        slot: SlotId(0x4000),
        ..header
    };
    let mut case = answered("slot 16384", frame, Counter::ErrorSlot, Status::Malformed);
    case.expect.frame = error_answer(&echoed, Status::Malformed, 0);
    case.check();
}

/// A request for `function` with every field that an answer repeats, and its answer.
fn refused(
    name: &'static str,
    tables: FakeTables,
    header: RpcHeader,
    status: Status,
    counters: &[Counter],
) -> Case {
    let retry_after_ms = if status.is_retryable() {
        RETRY_AFTER_MS
    } else {
        0
    };
    Case {
        name,
        tables,
        frame: Frame::rpc(header, &[5; 300]).bytes(),
        expect: Expect {
            action: Action::Tx,
            frame: error_answer(&header, status, retry_after_ms),
            counters: counters.to_vec(),
        },
    }
}

#[test]
fn answers_requests_that_cannot_be_placed() {
    let header = RpcHeader {
        flags: request().flags | flags::HAS_SLOT | flags::HAS_SESSION,
        session_id: 7,
        slot: SlotId(16_383),
        token: 5,
        ..request()
    };
    let unknown = RpcHeader {
        function: FunctionId(1),
        ..header
    };
    let ping = RpcHeader {
        kind: Kind::Ping,
        ..unknown
    };
    let mut no_owner = tables(Affinity::Shard);
    no_owner.set_slot(header.slot, WorkerId::NONE);
    let mut owner_down = tables(Affinity::Shard);
    owner_down.set_slot(header.slot, WorkerId(1));
    owner_down.add_worker(1, WorkerState::Down);
    let mut no_worker = tables(Affinity::None);
    no_worker.workers.clear();
    let any = tables(Affinity::None);
    let unknown_function = [Counter::ErrorUnknownFunction];
    let no_shard_owner = [Counter::ErrorNoShardOwner];
    check_all([
        refused(
            "unknown function",
            any.clone(),
            unknown,
            Status::UnknownFunction,
            &unknown_function,
        ),
        refused(
            "ping of one",
            any,
            ping,
            Status::UnknownFunction,
            &unknown_function,
        ),
        refused(
            "slot of nobody",
            no_owner,
            header,
            Status::NoShardOwner,
            &no_shard_owner,
        ),
        refused(
            "owner is down",
            owner_down,
            header,
            Status::NoShardOwner,
            &no_shard_owner,
        ),
        refused(
            "no worker",
            no_worker,
            header,
            Status::NoWorker,
            &[Counter::ErrorNoWorker, Counter::WarmFull],
        ),
    ]);
}

#[test]
fn answers_are_cut_of_options_and_padding() {
    let header = RpcHeader {
        function: FunctionId(1),
        ..request()
    };
    for options in [4, 40] {
        let frame = Frame {
            options: vec![1; options],
            ..Frame::rpc(header, b"payload")
        };
        let mut bytes = frame.bytes();
        bytes.extend_from_slice(&[0xee; 20]);
        let mut case = answered(
            "options and padding",
            bytes,
            Counter::ErrorUnknownFunction,
            Status::UnknownFunction,
        );
        case.expect.frame = error_answer(&header, Status::UnknownFunction, 0);
        case.check();
    }
}
