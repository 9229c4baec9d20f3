//! The next hop from the kernel's FIB, with routes and neighbours of a network namespace of the test's own.

use std::process::Command;

use ebpf_common::maps::{Counter, ForwardMode, worker_flags};
use nix::sched::{CloneFlags, unshare};
use prog_tests::program::{Action, Program};
use xdp_balancer::{
    DropReason, Ends, FibParams, FibQuery, NextHop, Verdict, balance,
    testing::{
        FakeTables, HostPacket,
        frame::Frame,
        tunnel::{encapsulated, forwarded, too_big_answer},
    },
};

use crate::{
    case::{frame, request},
    forward::tables as tables_of,
};

/// MAC addresses of the next hop and of the interface to it.
const HOP: [u8; 6] = [2, 0, 0, 0, 7, 1];
const OURS: [u8; 6] = [2, 0, 0, 0, 7, 2];
const HOP_AND_OURS: [[u8; 6]; 2] = [HOP, OURS];

fn tables(mode: ForwardMode, outer_v6: bool) -> FakeTables {
    let mut tables = tables_of(mode, outer_v6);
    for worker in tables.workers.values_mut() {
        worker.flags |= worker_flags::FIB;
        worker.mtu = 9_000;
    }
    tables
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}

/// Makes a network for the test's thread alone, which forwards, and whose interface `wpf0` leads to a next hop that answers
/// nothing; returns the number of that interface. It goes with the thread.
fn network() -> u32 {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for key in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        let status = Command::new("sysctl").args(["-qw", key]).status().unwrap();
        assert!(status.success(), "{key}");
    }
    ip("link set lo up");
    ip(
        "link add wpf0 address 02:00:00:00:07:02 type veth peer name wpf1 address 02:00:00:00:07:01",
    );
    ip("link set wpf0 up");
    ip("link set wpf1 up");
    ip("addr add 192.0.2.1/24 dev wpf0");
    ip("addr add 2001:db8:f::1/64 dev wpf0 nodad");
    ip("route add 10.80.0.0/16 via 192.0.2.9");
    ip("route add fd80::/16 via 2001:db8:f::9");
    nix::net::if_::if_nametoindex("wpf0").unwrap()
}

fn neighbours() {
    ip("neigh replace 192.0.2.9 lladdr 02:00:00:00:07:01 dev wpf0 nud permanent");
    ip("neigh replace 2001:db8:f::9 lladdr 02:00:00:00:07:01 dev wpf0 nud permanent");
}

/// What `frame` is when it has been sent to worker 1, with the MAC addresses of `[receiver, sender]`.
fn sent(tables: &FakeTables, mode: ForwardMode, frame: &[u8], macs: [[u8; 6]; 2]) -> Vec<u8> {
    let worker = tables.workers.values().next().unwrap();
    let sent = match mode {
        ForwardMode::L2 => forwarded(frame, worker),
        mode => encapsulated(frame, worker, mode, &tables.config.unwrap()),
    };
    [&macs.concat(), &sent[12..]].concat()
}

/// Runs `frame` in the kernel, and on the host with a FIB that says `next_hop`: both must agree.
fn run(tables: &FakeTables, frame: &[u8], next_hop: NextHop) -> (Action, Vec<u8>, Vec<Counter>) {
    let mut program = Program::load(prog_tests::object(), &[]).unwrap();
    program.apply(tables).unwrap();
    let (action, after) = program.run(frame).unwrap();
    let after = after.to_vec();
    let counters: Vec<_> = program.counters().unwrap().into_keys().collect();

    let _earlier = tables.take_counters();
    let mut packet = HostPacket::new(frame.to_vec());
    packet.next_hop = next_hop;
    let verdict = balance(&mut packet, tables);
    assert_eq!(crate::case::action_of(verdict), action, "{verdict:?}");
    assert_eq!(packet.bytes, after);
    let on_host: Vec<_> = tables.take_counters().into_keys().collect();
    assert_eq!(counters, on_host);
    (action, after, counters)
}

fn each_way(check: impl Fn(ForwardMode, bool)) {
    for mode in crate::forward::MODES {
        for outer_v6 in [false, true] {
            check(mode, outer_v6);
        }
    }
}

#[test]
fn a_neighbour_that_is_known_is_sent_to() {
    let port = network();
    neighbours();
    let next_hop = NextHop::Found {
        ifindex: port,
        macs: HOP_AND_OURS,
    };
    each_way(|mode, outer_v6| {
        let mut tables = tables(mode, outer_v6);
        tables.ports.insert(port);
        let (action, after, counters) = run(&tables, &frame(), next_hop);
        assert_eq!(action, Action::Redirect, "{mode:?} {outer_v6}");
        assert_eq!(after, sent(&tables, mode, &frame(), HOP_AND_OURS));
        assert_eq!(counters, [Counter::Packets, Counter::RouteWarm]);
    });
}

#[test]
fn an_interface_that_is_no_port_sends_nothing() {
    let port = network();
    neighbours();
    let next_hop = NextHop::Found {
        ifindex: port,
        macs: HOP_AND_OURS,
    };
    each_way(|mode, outer_v6| {
        let (action, _, counters) = run(&tables(mode, outer_v6), &frame(), next_hop);
        assert_eq!(action, Action::Drop);
        assert_eq!(counters, [Counter::Packets, Counter::DropNoPort]);
    });
}

/// The kernel gets the packet, encapsulated, with the MAC addresses that it came with, and asks for the neighbour.
#[test]
fn a_neighbour_that_is_not_known_is_left_to_the_kernel() {
    let port = network();
    each_way(|mode, outer_v6| {
        let mut tables = tables(mode, outer_v6);
        tables.ports.insert(port);
        let before = frame();
        let (action, after, counters) = run(&tables, &before, NextHop::NoNeighbour);
        if mode == ForwardMode::L2 {
            // It would not know what to do with a packet for the VIP.
            assert_eq!((action, after), (Action::Drop, before));
            assert_eq!(counters, [Counter::Packets, Counter::DropNoRoute]);
        } else {
            let macs = [
                before[..6].try_into().unwrap(),
                before[6..12].try_into().unwrap(),
            ];
            assert_eq!(action, Action::Pass);
            assert_eq!(after, sent(&tables, mode, &before, macs));
            assert_eq!(counters, [Counter::Packets, Counter::PassNoNeighbour]);
        }
    });
}

#[test]
fn where_no_route_leads_nothing_is_sent() {
    network();
    ip("route del 10.80.0.0/16");
    ip("route add blackhole 10.80.0.0/16");
    ip("route del fd80::/16");
    each_way(|mode, outer_v6| {
        let (action, after, counters) = run(&tables(mode, outer_v6), &frame(), NextHop::NoRoute);
        assert_eq!((action, after), (Action::Drop, frame()));
        assert_eq!(counters, [Counter::Packets, Counter::DropNoRoute]);
    });
}

#[test]
fn a_route_for_shorter_packets_is_told_to_the_sender() {
    network();
    neighbours();
    ip("route replace 10.80.0.0/16 via 192.0.2.9 mtu lock 1400");
    let frame = Frame::rpc(request(), &[7; 1_380 - 92 + 1]).bytes();
    let tables = tables(ForwardMode::Ipip, false);
    let (action, after, counters) = run(&tables, &frame, NextHop::TooBig { mtu: 1_400 });
    assert_eq!(action, Action::Tx);
    assert_eq!(after, too_big_answer(&frame, 1_380));
    assert_eq!(counters, [Counter::Packets, Counter::AnswerTooBig]);
}

#[test]
fn the_fib_is_asked_for_the_outer_packet() {
    each_way(|mode, outer_v6| {
        let tables = tables(mode, outer_v6);
        let mut packet = HostPacket::new(frame());
        let verdict = balance(&mut packet, &tables);
        assert_eq!(verdict, Verdict::Drop(DropReason::NoRoute));
        let config = tables.config.unwrap();
        let worker = tables.workers.values().next().unwrap();
        let ends = if outer_v6 {
            Ends::V6 {
                source: &config.tunnel_v6,
                destination: &worker.addr6,
            }
        } else {
            Ends::V4 {
                source: &config.tunnel_v4,
                destination: &worker.addr4,
            }
        };
        let overhead = ebpf_common::tunnel::overhead(mode, outer_v6) as u16;
        let query = FibQuery {
            ends,
            len: (frame().len() - 14) as u16 + overhead,
            traffic_class: 0,
        };
        assert_eq!(*packet.queries.borrow(), [FibParams::new(&query, 1)]);
    });
}
