//! The way to a worker that is not on our own link: each tunnel to the byte, what does not fit it, and what the FIB says.

use ebpf_common::{
    ids::WorkerId,
    maps::{
        Affinity, Counter, ForwardMode, Rate, VipInfo, VipKind, WorkerInfo, features, worker_flags,
    },
    tunnel::overhead,
};

use super::{counted, request, run, tables, warm_on};
use crate::{
    DropReason, NextHop, Verdict, balance,
    testing::{
        FakeTables, HostPacket,
        caller::{Caller, VIP6},
        frame::{VIP, VIP_PORT},
        tunnel::{encapsulated, forwarded, too_big_answer},
    },
};

const WORKER: WorkerId = WorkerId(2);
const MODES: [ForwardMode; 3] = [ForwardMode::L2, ForwardMode::Ipip, ForwardMode::Gue];
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 7, 1], [2, 0, 0, 0, 7, 2]];
/// One worker, to which packets for the VIP, of either version of IP, travel by `mode`, and over IPv6 if `outer_v6`.
fn tables_by(mode: ForwardMode, outer_v6: bool, change: impl Fn(&mut WorkerInfo)) -> FakeTables {
    let mut tables = tables(Affinity::None);
    warm_on(&mut tables, Affinity::None, &[WORKER.0]);
    let vip = |number| VipInfo {
        forward: mode as u8,
        ..VipInfo::new(number, VipKind::Rpc)
    };
    tables.add_vip_of(VIP, VIP_PORT, 17, vip(0));
    tables.add_vip6_of(VIP6, VIP_PORT, 17, vip(1));
    for worker in tables.workers.values_mut() {
        if outer_v6 {
            worker.flags |= worker_flags::OUTER_V6;
        }
        change(worker);
    }
    tables
}

fn each_way(check: impl Fn(ForwardMode, bool)) {
    for mode in MODES {
        for outer_v6 in [false, true] {
            check(mode, outer_v6);
        }
    }
}

/// `frame` as worker 2 gets it by `mode`.
fn sent(tables: &FakeTables, mode: ForwardMode, frame: &[u8]) -> Vec<u8> {
    let worker = &tables.workers[&WORKER];
    match mode {
        ForwardMode::L2 => forwarded(frame, worker),
        mode => encapsulated(frame, worker, mode, &tables.config.unwrap()),
    }
}

/// Runs one frame where the FIB says `next_hop`.
fn run_by_fib(tables: &FakeTables, frame: &[u8], next_hop: NextHop) -> (Verdict, Vec<u8>) {
    let mut packet = HostPacket::new(frame.to_vec());
    packet.next_hop = next_hop;
    let verdict = balance(&mut packet, tables);
    (verdict, packet.bytes)
}

fn by_fib(mode: ForwardMode, outer_v6: bool) -> FakeTables {
    tables_by(mode, outer_v6, |worker| worker.flags |= worker_flags::FIB)
}

#[test]
fn each_tunnel_is_built_to_the_byte() {
    each_way(|mode, outer_v6| {
        let tables = tables_by(mode, outer_v6, |_| ());
        for caller in Caller::of_each_kind() {
            let frame = caller.frame_of_len(request(), 200);
            let (verdict, after, counters) = run(&tables, frame.clone());
            assert_eq!(verdict, Verdict::Tx, "{mode:?} {outer_v6} {caller:?}");
            assert_eq!(after, sent(&tables, mode, &frame), "{mode:?} {caller:?}");
            assert_eq!(counters, counted(Counter::RouteWarm, &[]));
        }
    });
}

#[test]
fn a_tunnel_without_both_ends_carries_nothing() {
    each_way(|mode, outer_v6| {
        if mode == ForwardMode::L2 {
            return;
        }
        let mut tables = tables_by(mode, outer_v6, |_| ());
        let config = tables.config.as_mut().unwrap();
        (config.tunnel_v4, config.tunnel_v6) = ([0; 4], [0; 16]);
        let frame = Caller::of_each_kind()[0].frame_of_len(request(), 200);
        let (verdict, after, _) = run(&tables, frame.clone());
        assert_eq!(verdict, Verdict::Drop(DropReason::NoTunnelAddress));
        assert_eq!(after, frame);
    });
}

#[test]
fn whoever_sends_too_much_is_told_how_much_fits() {
    each_way(|mode, outer_v6| {
        for mtu in [1_500, 1_450] {
            let tables = tables_by(mode, outer_v6, |worker| worker.mtu = mtu);
            let fits = mtu - overhead(mode, outer_v6) as u16;
            for caller in Caller::of_each_kind() {
                for too_long in [1, 2, 13] {
                    let frame = caller.frame_of_len(request(), usize::from(fits) + too_long);
                    let (verdict, after, counters) = run(&tables, frame.clone());
                    if mode == ForwardMode::L2 {
                        // Nothing is put around it: whatever came in goes out.
                        assert_eq!(after, sent(&tables, mode, &frame));
                        continue;
                    }
                    assert_eq!(verdict, Verdict::Tx, "{mode:?} {outer_v6} {caller:?}");
                    assert_eq!(after, too_big_answer(&frame, fits), "{mode:?} {caller:?}");
                    assert_eq!(counters, counted(Counter::AnswerTooBig, &[]));
                }
            }
        }
    });
}

#[test]
fn an_answer_is_never_longer_than_the_packet() {
    for (mtu, len) in [(500, 481), (140, 121), (100, 93)] {
        let tables = tables_by(ForwardMode::Ipip, false, |worker| worker.mtu = mtu);
        let frame = Caller::of_each_kind()[0].frame_of_len(request(), len);
        let (verdict, after, _) = run(&tables, frame.clone());
        assert_eq!(verdict, Verdict::Tx);
        assert_eq!(after, too_big_answer(&frame, mtu - 20));
        assert!(after.len() <= frame.len());
    }
}

#[test]
fn who_allows_fragments_is_not_told() {
    let tables = tables_by(ForwardMode::Gue, false, |worker| worker.mtu = 1_500);
    let mut frame = Caller::of_each_kind()[0].frame_of_len(request(), 1_473);
    assert_eq!(frame[14 + 6], 0x40, "DF");
    frame[14 + 6] = 0;
    let (verdict, after, counters) = run(&tables, frame.clone());
    assert_eq!(verdict, Verdict::Drop(DropReason::TooBig));
    assert_eq!(after, frame);
    assert_eq!(counters, counted(Counter::DropTooBig, &[]));
}

#[test]
fn a_source_that_is_no_host_is_not_answered() {
    let tables = tables_by(ForwardMode::Ipip, false, |worker| worker.mtu = 1_500);
    for caller in Caller::of_no_host() {
        let (verdict, _, _) = run(&tables, caller.frame_of_len(request(), 1_481));
        assert_eq!(verdict, Verdict::Drop(DropReason::BadSource), "{caller:?}");
    }
}

#[test]
fn answers_keep_to_their_rate() {
    let mut tables = tables_by(ForwardMode::Ipip, false, |worker| worker.mtu = 1_500);
    let config = tables.config.as_mut().unwrap();
    config.features |= features::ANSWER_RATE;
    // One, and the next one in 13 days.
    config.answer_rate = Rate {
        interval_ns: 1 << 50,
        tolerance_ns: 0,
    };
    let frame = Caller::of_each_kind()[0].frame_of_len(request(), 1_481);
    let (first, ..) = run(&tables, frame.clone());
    let (second, ..) = run(&tables, frame);
    assert_eq!(first, Verdict::Tx);
    assert_eq!(second, Verdict::Drop(DropReason::AnswerRate));
}

#[test]
fn a_packet_that_cannot_be_cut_or_grown_is_dropped() {
    let tables = tables_by(ForwardMode::Ipip, false, |worker| worker.mtu = 1_500);
    for caller in Caller::of_each_kind() {
        let mut packet = HostPacket::new(caller.frame_of_len(request(), 1_481));
        packet.refuses_cut = true;
        let verdict = balance(&mut packet, &tables);
        assert_eq!(verdict, Verdict::Drop(DropReason::NotRewritten));
        let mut packet = HostPacket::new(caller.frame_of_len(request(), 200));
        packet.head_room = 19;
        let verdict = balance(&mut packet, &tables);
        assert_eq!(verdict, Verdict::Drop(DropReason::NotRewritten));
    }
}

#[test]
fn the_next_hop_of_the_fib_is_sent_to() {
    each_way(|mode, outer_v6| {
        let mut tables = by_fib(mode, outer_v6);
        let frame = Caller::of_each_kind()[0].frame_of_len(request(), 200);
        let found = |ifindex| NextHop::Found {
            ifindex,
            macs: MACS,
        };
        let (verdict, _) = run_by_fib(&tables, &frame, found(9));
        assert_eq!(verdict, Verdict::Drop(DropReason::NoPort));
        tables.ports.insert(9);
        let expected = [&MACS.concat()[..], &sent(&tables, mode, &frame)[12..]].concat();
        // Another interface, and the one that it came in by.
        for (ifindex, way) in [(9, Verdict::Redirect { ifindex: 9 }), (1, Verdict::Tx)] {
            let (verdict, after) = run_by_fib(&tables, &frame, found(ifindex));
            assert_eq!(verdict, way, "{mode:?} {outer_v6}");
            assert_eq!(after, expected);
        }
    });
}

#[test]
fn what_the_fib_does_not_know_is_left_to_the_kernel_or_dropped() {
    each_way(|mode, outer_v6| {
        let tables = by_fib(mode, outer_v6);
        let frame = Caller::of_each_kind()[0].frame_of_len(request(), 200);
        let (verdict, after) = run_by_fib(&tables, &frame, NextHop::NoNeighbour);
        if mode == ForwardMode::L2 {
            assert_eq!(verdict, Verdict::Drop(DropReason::NoRoute));
            assert_eq!(after, frame);
        } else {
            assert_eq!(verdict, Verdict::Pass);
            assert_eq!(after[12..], sent(&tables, mode, &frame)[12..]);
        }
        let (verdict, after) = run_by_fib(&tables, &frame, NextHop::NoRoute);
        assert_eq!(verdict, Verdict::Drop(DropReason::NoRoute));
        assert_eq!(after, frame);
    });
}

#[test]
fn a_route_for_shorter_packets_is_told_to_the_sender() {
    let tables = by_fib(ForwardMode::Ipip, false);
    for caller in Caller::of_each_kind() {
        let frame = caller.frame_of_len(request(), 1_381);
        let (verdict, after) = run_by_fib(&tables, &frame, NextHop::TooBig { mtu: 1_400 });
        assert_eq!(verdict, Verdict::Tx);
        assert_eq!(after, too_big_answer(&frame, 1_380));
    }
}
