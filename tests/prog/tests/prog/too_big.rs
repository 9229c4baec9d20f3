//! Packets that are too long for the way to their worker: the answer to the byte, or none.

use std::net::{Ipv4Addr, Ipv6Addr};

use ebpf_common::{
    maps::{Counter, ForwardMode, Rate, VipInfo, VipKind, features},
    tunnel::overhead,
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use prog_tests::program::{Action, Program};
use xdp_balancer::testing::{
    FakeTables,
    caller::{Caller, VIP6},
    frame::VIP_PORT,
    tunnel::too_big_answer,
};

use crate::{
    case::{Case, Expect, request},
    forward::tables as tables_of,
};

fn tables(mode: ForwardMode, outer_v6: bool, mtu: u16) -> FakeTables {
    let mut tables = tables_of(mode, outer_v6);
    let vip = VipInfo {
        forward: mode as u8,
        ..VipInfo::new(1, VipKind::Rpc)
    };
    tables.add_vip6_of(VIP6, VIP_PORT, 17, vip);
    for worker in tables.workers.values_mut() {
        worker.mtu = mtu;
    }
    tables
}

fn answered(tables: &FakeTables, frame: Vec<u8>, mtu: u16) -> Case {
    Case {
        name: "one byte too long",
        tables: tables.clone(),
        expect: Expect {
            action: Action::Tx,
            frame: too_big_answer(&frame, mtu),
            counters: vec![Counter::AnswerTooBig],
        },
        frame,
    }
}

fn dropped(name: &'static str, tables: FakeTables, counter: Counter, frame: Vec<u8>) -> Case {
    Case {
        tables,
        ..Case::untouched(name, Action::Drop, counter, frame)
    }
}

#[test]
fn a_sender_is_told_how_long_a_packet_may_be() {
    for mode in [ForwardMode::Ipip, ForwardMode::Gue] {
        for outer_v6 in [false, true] {
            for mtu in [1_500, 1_450] {
                let tables = tables(mode, outer_v6, mtu);
                let mut program = Program::load(prog_tests::object(), &[]).unwrap();
                program.apply(&tables).unwrap();
                let fits = mtu - overhead(mode, outer_v6) as u16;
                for caller in Caller::of_each_kind() {
                    for too_long in [1, 2, 13] {
                        let frame = caller.frame_of_len(request(), usize::from(fits) + too_long);
                        answered(&tables, frame, fits).check_in(&mut program);
                    }
                }
            }
        }
    }
}

/// The quotation is never longer than the packet; where that leaves no headers in it, there is no answer.
#[test]
fn an_answer_is_never_longer_than_the_packet() {
    let caller = Caller::new(Ipv4Addr::new(10, 80, 0, 3));
    for (mtu, len) in [(500, 481), (140, 121)] {
        let tables = tables(ForwardMode::Ipip, false, mtu);
        let frame = caller.frame_of_len(request(), len);
        let case = answered(&tables, frame, mtu - 20);
        assert!(case.expect.frame.len() <= case.frame.len());
        case.check();
    }
    let caller = Caller::new(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 3));
    let tables = tables(ForwardMode::Ipip, false, 132);
    let case = answered(&tables, caller.frame_of_len(request(), 113), 112);
    assert!(case.expect.frame.len() <= case.frame.len());
    case.check();
}

#[test]
fn who_allows_fragments_is_not_told() {
    let tables = tables(ForwardMode::Gue, false, 1_500);
    for mut caller in [Caller::new(Ipv4Addr::new(10, 80, 0, 3))] {
        for tags in [vec![], vec![7], vec![7, 8]] {
            caller.tags = tags;
            let mut frame = caller.frame_of_len(request(), 1_473);
            let flags = 14 + 4 * caller.tags.len() + 6;
            assert_eq!(frame[flags], 0x40, "DF");
            frame[flags] = 0;
            dropped(
                "may be fragmented",
                tables.clone(),
                Counter::DropTooBig,
                frame,
            )
            .check();
        }
    }
}

#[test]
fn a_source_that_is_no_host_is_not_answered() {
    for caller in Caller::of_no_host() {
        let frame = caller.frame_of_len(request(), 1_481);
        let tables = tables(ForwardMode::Ipip, false, 1_500);
        dropped("no host", tables, Counter::DropBadSource, frame).check();
    }
}

#[test]
fn too_big_answers_keep_to_the_rate_of_answers() {
    let mut cpus = CpuSet::new();
    cpus.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
    let mut tables = tables(ForwardMode::Ipip, false, 1_500);
    let config = tables.config.as_mut().unwrap();
    config.features |= features::ANSWER_RATE;
    // One, and the next one in 13 days.
    config.answer_rate = Rate {
        interval_ns: 1 << 50,
        tolerance_ns: 0,
    };
    let mut program = Program::load(prog_tests::object(), &[]).unwrap();
    program.apply(&tables).unwrap();
    let frame = Caller::new(Ipv4Addr::new(10, 80, 0, 3)).frame_of_len(request(), 1_481);
    let first = answered(&tables, frame.clone(), 1_480);
    first.check_in(&mut program);
    // With the buckets as the first one has left them.
    dropped("the second", first.tables, Counter::DropAnswerRate, frame).check_in(&mut program);
}
