//! The ways to a worker: each mode, to the byte; what fits and what does not; what lacks an address or a hop.

use ebpf_common::{
    maps::{Affinity, Config, Counter, ForwardMode, VipInfo, VipKind, features, worker_flags},
    tunnel::overhead,
};
use prog_tests::program::Action;
use xdp_balancer::testing::{
    FakeTables,
    frame::{Frame, VIP, VIP_PORT},
    tunnel::{encapsulated, forwarded},
};

use crate::case::{Case, Expect, check_all, edited, frame, request, tables as tables_of};

pub(crate) const MODES: [ForwardMode; 3] = [ForwardMode::L2, ForwardMode::Ipip, ForwardMode::Gue];

/// A VIP whose packets travel by `mode` to workers that are reached by IPv6 if `outer_v6`.
pub(crate) fn tables(mode: ForwardMode, outer_v6: bool) -> FakeTables {
    let mut tables = tables_of(Affinity::None);
    let vip = VipInfo {
        forward: mode as u8,
        ..VipInfo::new(0, VipKind::Rpc)
    };
    tables.add_vip_of(VIP, VIP_PORT, 17, vip);
    if outer_v6 {
        for worker in tables.workers.values_mut() {
            worker.flags |= worker_flags::OUTER_V6;
        }
    }
    tables
}

fn worker(tables: &mut FakeTables) -> &mut ebpf_common::maps::WorkerInfo {
    tables.workers.values_mut().next().unwrap()
}

fn config(tables: &mut FakeTables) -> &mut Config {
    tables.config.as_mut().unwrap()
}

/// `frame` goes to worker 1 by `mode`.
pub(crate) fn sent(
    name: &'static str,
    tables: &FakeTables,
    mode: ForwardMode,
    frame: Vec<u8>,
) -> Case {
    let worker = tables.workers.values().next().unwrap();
    let after = match mode {
        ForwardMode::L2 => forwarded(&frame, worker),
        mode => encapsulated(&frame, worker, mode, &tables.config.unwrap()),
    };
    Case {
        name,
        tables: tables.clone(),
        frame,
        expect: Expect {
            action: Action::Tx,
            frame: after,
            counters: vec![Counter::RouteWarm],
        },
    }
}

fn dropped(name: &'static str, tables: FakeTables, counter: Counter, frame: Vec<u8>) -> Case {
    Case {
        tables,
        ..Case::untouched(name, Action::Drop, counter, frame)
    }
}

/// Requests that differ in what forwarding must respect.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let with_options = |len| Frame {
        options: vec![1; len],
        ..Frame::rpc(request(), b"payload")
    };
    let padded = [frame(), vec![0xee; 11]].concat();
    vec![
        ("plain", frame()),
        ("four bytes of options", with_options(4).bytes()),
        ("forty bytes of options", with_options(40).bytes()),
        ("padding", padded),
        ("a traffic class", edited_header(|ip| ip[1] = 0b1011_1010)),
        ("a last hop but one", edited_header(|ip| ip[8] = 2)),
        ("the most hops", edited_header(|ip| ip[8] = 255)),
    ]
}

/// A good request with an edit of its IPv4 header, whose checksum is made good again.
fn edited_header(edit: impl Fn(&mut [u8])) -> Vec<u8> {
    edited(|bytes| {
        let ip = &mut bytes[14..34];
        edit(ip);
        ip[10..12].copy_from_slice(&[0, 0]);
        let sum: u32 = ip
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    })
}

#[test]
fn every_mode_sends_every_frame_as_it_should() {
    let mut cases = Vec::new();
    for mode in MODES {
        for outer_v6 in [false, true] {
            let tables = tables(mode, outer_v6);
            for (name, frame) in frames() {
                cases.push(sent(name, &tables, mode, frame));
            }
        }
    }
    check_all(cases);
}

#[test]
fn a_hop_limit_is_lowered_unless_that_is_switched_off() {
    for mode in MODES {
        let mut kept = tables(mode, false);
        config(&mut kept).features |= features::KEEP_HOP_LIMIT;
        for hops in [0, 1] {
            let frame = edited_header(|ip| ip[8] = hops);
            dropped(
                "no hop is left",
                tables(mode, false),
                Counter::DropHopLimit,
                frame.clone(),
            )
            .check();
            // Of the case's expectation, all but what lowering changes.
            let plus_one = edited_header(|ip| ip[8] = hops + 1);
            let mut case = sent("kept", &kept, mode, plus_one);
            case.frame = frame;
            case.check();
        }
    }
}

#[test]
fn an_encapsulated_packet_fits_or_is_too_big() {
    for mode in [ForwardMode::Ipip, ForwardMode::Gue] {
        for outer_v6 in [false, true] {
            for mtu in [0, 1_400, 1_500, 3_000] {
                let mut tables = tables(mode, outer_v6);
                worker(&mut tables).mtu = mtu;
                let mtu = if mtu == 0 { 1_500 } else { usize::from(mtu) };
                let room = mtu - overhead(mode, outer_v6) as usize - 20 - 8 - 64;
                let of = |payload| Frame::rpc(request(), &vec![7; payload]).bytes();
                sent("fits exactly", &tables, mode, of(room)).check();
            }
        }
    }
}

#[test]
fn nothing_is_encapsulated_without_both_addresses() {
    for mode in [ForwardMode::Ipip, ForwardMode::Gue] {
        for outer_v6 in [false, true] {
            let mut of_worker = tables(mode, outer_v6);
            let mut of_ours = of_worker.clone();
            if outer_v6 {
                worker(&mut of_worker).addr6 = [0; 16];
                config(&mut of_ours).tunnel_v6 = [0; 16];
            } else {
                worker(&mut of_worker).addr4 = [0; 4];
                config(&mut of_ours).tunnel_v4 = [0; 4];
            }
            let counter = Counter::DropNoTunnelAddress;
            check_all([
                dropped("the worker has none", of_worker, counter, frame()),
                dropped("we have none", of_ours, counter, frame()),
            ]);
        }
    }
}

/// The NIC of a worker spreads packets over its queues by what differs between flows, so it must differ, and only there.
#[test]
fn flows_differ_in_what_a_nic_spreads_them_by() {
    for (mode, outer_v6, varied) in [
        (ForwardMode::Ipip, false, 28..30),
        (ForwardMode::Gue, false, 34..36),
        (ForwardMode::Ipip, true, 34..38),
        (ForwardMode::Gue, true, 54..56),
    ] {
        let mut tables = tables(mode, outer_v6);
        tables.set_load(1, 0, 1_000);
        let mut program = prog_tests::program::Program::load(prog_tests::object(), &[]).unwrap();
        program.apply(&tables).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for client in 0..64_u8 {
            let frame = edited(|bytes| bytes[35] = client);
            let case = sent("one of many flows", &tables, mode, frame);
            seen.insert(case.expect.frame[varied.clone()].to_vec());
            case.check_in(&mut program);
        }
        assert!(seen.len() > 60, "{mode:?}: {} of 64 differ", seen.len());
    }
}
