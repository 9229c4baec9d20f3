//! ICMP errors about packets that a worker sent from a VIP go to that worker; others are the kernel's, or nobody's.

use ebpf_common::{
    cookie::CookieScope,
    ids::WorkerId,
    maps::{Affinity, Counter, ForwardMode, VipInfo, VipKind, WorkerState},
    wire::{Kind, RpcHeader, flags},
};
use prog_tests::program::Action;
use xdp_balancer::{
    Verdict, balance,
    testing::{
        FakeTables, HostPacket,
        caller::{Caller, VIP6},
        frame::{CLIENT, VIP, VIP_PORT},
        tunnel::{encapsulated, forwarded},
    },
};

use crate::case::{
    Case, Expect, FUNCTION, all_at_home, check_all, loaded, request, tables as tables_of,
};

const CLIENT6: [u16; 8] = [0x2001, 0xdb8, 1, 2, 3, 4, 5, 6];
const SESSION: u64 = 77;

/// Bytes of the IP header of what `caller` is sent, and behind it those of UDP.
const fn quoted_headers(caller: &Caller) -> usize {
    match caller.source {
        std::net::IpAddr::V4(_) => 28,
        std::net::IpAddr::V6(_) => 48,
    }
}

/// Clients of both families, with as many VLAN tags as there may be.
fn callers() -> Vec<Caller> {
    let plain = [Caller::new(CLIENT), Caller::new(CLIENT6)];
    let tagged = plain.clone().map(|caller| Caller {
        tags: vec![5, 0x6007],
        ..caller
    });
    plain.into_iter().chain(tagged).collect()
}

/// A VIP of `kind` in `mode` on both families' addresses; workers 1 and 2.
fn tables(kind: VipKind, mode: ForwardMode) -> FakeTables {
    let mut tables = tables_of(Affinity::None);
    let vip = VipInfo {
        forward: mode as u8,
        ..VipInfo::new(3, kind)
    };
    tables.add_vip_of(VIP, VIP_PORT, 17, vip);
    tables.add_vip6_of(VIP6, VIP_PORT, 17, vip);
    tables
}

/// The RPC header of an answer, with the cookie of `worker`.
fn answer(tables: &FakeTables, worker: u16, session: Option<u64>) -> RpcHeader {
    let scope = CookieScope {
        function: FUNCTION,
        session: session.unwrap_or(0),
    };
    let keys = tables.config.unwrap().cookie_keys();
    let has_session = if session.is_some() {
        flags::HAS_SESSION
    } else {
        0
    };
    RpcHeader {
        kind: Kind::Response,
        flags: request().flags | flags::HAS_COOKIE | has_session,
        session_id: session.unwrap_or(0),
        route_cookie: keys.seal(WorkerId(worker), scope),
        ..request()
    }
}

fn quoted(caller: &Caller, header: RpcHeader) -> Vec<u8> {
    caller.packet_from_vip(VIP_PORT, &header.emit())
}

/// The error about `quoted` goes to `worker`.
fn sent(
    name: &'static str,
    tables: &FakeTables,
    mode: ForwardMode,
    frame: Vec<u8>,
    worker: u16,
) -> Case {
    let info = &tables.workers[&WorkerId(worker)];
    let after = match mode {
        ForwardMode::L2 => forwarded(&frame, info),
        mode => encapsulated(&frame, info, mode, &tables.config.unwrap()),
    };
    Case {
        name,
        tables: tables.clone(),
        frame,
        expect: Expect {
            action: Action::Tx,
            frame: after,
            counters: vec![Counter::RouteIcmp],
        },
    }
}

fn untouched(
    name: &'static str,
    tables: &FakeTables,
    action: Action,
    counter: Counter,
    frame: Vec<u8>,
) -> Case {
    Case {
        tables: tables.clone(),
        ..Case::untouched(name, action, counter, frame)
    }
}

#[test]
fn the_cookie_of_the_quoted_answer_names_the_worker() {
    for mode in [ForwardMode::L2, ForwardMode::Ipip, ForwardMode::Gue] {
        let tables = tables(VipKind::Rpc, mode);
        check_all(callers().iter().flat_map(|caller| {
            [(1, None), (2, Some(SESSION))].map(|(worker, session)| {
                let frame = caller.too_big(&quoted(caller, answer(&tables, worker, session)));
                sent("with a cookie", &tables, mode, frame, worker)
            })
        }));
    }
}

#[test]
fn a_draining_worker_still_gets_its_errors_and_one_that_is_down_does_not() {
    let mut tables = tables(VipKind::Rpc, ForwardMode::L2);
    let caller = Caller::new(CLIENT);
    let frame = caller.too_big(&quoted(&caller, answer(&tables, 1, None)));
    let mut in_state = |state: WorkerState| {
        tables.workers.get_mut(&WorkerId(1)).unwrap().state = state as u8;
        tables.clone()
    };
    let draining = in_state(WorkerState::Draining);
    let down = in_state(WorkerState::Down);
    let unplaced = Counter::DropIcmpUnplaced;
    check_all([
        sent("draining", &draining, ForwardMode::L2, frame.clone(), 1),
        untouched("down", &down, Action::Drop, unplaced, frame),
    ]);
}

#[test]
fn without_a_good_cookie_the_session_names_the_worker_and_without_both_nobody() {
    let mut tables = tables(VipKind::Rpc, ForwardMode::L2);
    tables.set_session(FUNCTION, SESSION, WorkerId(2));
    let forged = RpcHeader {
        route_cookie: answer(&tables, 1, Some(SESSION)).route_cookie ^ 1,
        ..answer(&tables, 1, Some(SESSION))
    };
    let without_cookie = RpcHeader {
        flags: forged.flags & !flags::HAS_COOKIE,
        ..forged
    };
    let stranger = RpcHeader {
        session_id: SESSION + 1,
        ..forged
    };
    let alone = RpcHeader {
        flags: forged.flags & !flags::HAS_SESSION,
        ..forged
    };
    let unplaced = Counter::DropIcmpUnplaced;
    check_all(callers().iter().flat_map(|caller| {
        let error = |header| caller.too_big(&quoted(caller, header));
        let lost = |name, header| untouched(name, &tables, Action::Drop, unplaced, error(header));
        [
            sent("forged", &tables, ForwardMode::L2, error(forged), 2),
            sent(
                "no cookie",
                &tables,
                ForwardMode::L2,
                error(without_cookie),
                2,
            ),
            lost("an unknown session", stranger),
            lost("no session", alone),
        ]
    }));
}

#[test]
fn a_cookie_with_any_bit_flipped_names_nobody() {
    let tables = tables(VipKind::Rpc, ForwardMode::L2);
    let caller = Caller::new(CLIENT6);
    let good = answer(&tables, 1, None);
    let mut program = loaded(&tables);
    for bit in 0..64 {
        let header = RpcHeader {
            route_cookie: good.route_cookie ^ (1 << bit),
            ..good
        };
        let frame = caller.too_big(&quoted(&caller, header));
        untouched(
            "flipped",
            &tables,
            Action::Drop,
            Counter::DropIcmpUnplaced,
            frame,
        )
        .check_in(&mut program);
    }
}

#[test]
fn a_quote_cut_anywhere_is_dropped_or_lacks_a_worker() {
    let tables = tables(VipKind::Rpc, ForwardMode::L2);
    let mut program = loaded(&tables);
    for caller in callers() {
        let whole = quoted(&caller, answer(&tables, 1, None));
        for len in 0..whole.len() {
            let counter = if len < quoted_headers(&caller) {
                Counter::DropBadIcmp
            } else {
                Counter::DropIcmpUnplaced
            };
            let frame = caller.too_big(&whole[..len]);
            untouched("cut", &tables, Action::Drop, counter, frame).check_in(&mut program);
        }
        // Bytes behind the packet are not part of it.
        let padded = [caller.too_big(&whole[..whole.len() - 1]), vec![0; 30]].concat();
        untouched(
            "padded",
            &tables,
            Action::Drop,
            Counter::DropIcmpUnplaced,
            padded,
        )
        .check_in(&mut program);
    }
}

#[test]
fn what_was_not_sent_from_there_is_dropped_and_what_no_vip_sent_is_the_kernels() {
    let tables = tables(VipKind::Rpc, ForwardMode::L2);
    let mut cases = Vec::new();
    for caller in callers() {
        let good = quoted(&caller, answer(&tables, 1, None));
        let source = if caller.source.is_ipv4() { 15 } else { 23 };
        let protocol = if caller.source.is_ipv4() { 9 } else { 6 };
        let edited = |at: usize, value: u8| {
            let mut quoted = good.clone();
            quoted[at] = value;
            caller.too_big(&quoted)
        };
        let bad = |name, frame| untouched(name, &tables, Action::Drop, Counter::DropBadIcmp, frame);
        let passed =
            |name, frame| untouched(name, &tables, Action::Pass, Counter::PassNotVip, frame);
        cases.extend([
            bad("from another address", edited(source, 9)),
            bad("of version 7", edited(0, 0x75)),
            passed("TCP from a UDP VIP's port", edited(protocol, 6)),
            passed("neither UDP nor TCP", edited(protocol, 47)),
            passed(
                "from another port",
                caller.too_big(&caller.packet_from_vip(7, &[0; 64])),
            ),
        ]);
    }
    check_all(cases);
}

#[test]
fn of_a_packet_in_fragments_the_first_one_has_the_ports() {
    let tables = tables(VipKind::Rpc, ForwardMode::L2);
    let v4 = Caller::new(CLIENT);
    let mut later = quoted(&v4, answer(&tables, 1, None));
    let mut first = later.clone();
    (first[6], later[7]) = (0x20, 5);
    let v6 = Caller::new(CLIENT6);
    let in_v6 = |offset: u16| {
        let mut quoted = quoted(&v6, answer(&tables, 1, None));
        let [high, low] = (offset | 1).to_be_bytes();
        quoted.splice(40..40, [17, 0, high, low, 0, 0, 0, 9]);
        quoted[6] = 44;
        v6.too_big(&quoted)
    };
    let unplaced = Counter::DropIcmpUnplaced;
    check_all([
        sent("first", &tables, ForwardMode::L2, v4.too_big(&first), 1),
        untouched("later", &tables, Action::Drop, unplaced, v4.too_big(&later)),
        sent("first of IPv6", &tables, ForwardMode::L2, in_v6(0), 1),
        untouched("later of IPv6", &tables, Action::Drop, unplaced, in_v6(8)),
    ]);
}

#[test]
fn of_a_flow_its_entry_names_the_worker_or_the_maglev_table() {
    for kind in [VipKind::L4, VipKind::Quic] {
        let mut tables = tables(kind, ForwardMode::L2);
        all_at_home(&mut tables, 0, 1);
        for caller in callers() {
            let mut program = loaded(&tables);
            let error = caller.too_big(&caller.packet_from_vip(VIP_PORT, b"anything"));
            sent("maglev", &tables, ForwardMode::L2, error.clone(), 1).check_in(&mut program);

            // The client's own packet makes the entry, which outlives a change of the table.
            let mut own = HostPacket::new(caller.frame(request(), b""));
            assert_eq!(balance(&mut own, &tables), Verdict::Tx);
            all_at_home(&mut tables, 0, 2);
            program.apply(&tables).unwrap();
            sent("its entry", &tables, ForwardMode::L2, error, 1).check_in(&mut program);
            all_at_home(&mut tables, 0, 1);
        }
    }
}

#[test]
fn a_request_for_an_echo_is_the_kernels() {
    let tables = tables(VipKind::Rpc, ForwardMode::L2);
    check_all(callers().into_iter().map(|caller| {
        let mut frame = caller.too_big(&quoted(&caller, answer(&tables, 1, None)));
        let kind = caller.rpc_offset() - 8;
        frame[kind] = if caller.source.is_ipv4() { 8 } else { 128 };
        untouched("echo", &tables, Action::Pass, Counter::PassNotVip, frame)
    }));
}

#[test]
fn an_error_in_fragments_or_without_its_header_is_dropped() {
    let tables = tables(VipKind::Rpc, ForwardMode::L2);
    let caller = Caller::new(CLIENT);
    let mut fragment = caller.too_big(&quoted(&caller, answer(&tables, 1, None)));
    fragment[20] |= 0x20;
    let mut short = caller.too_big(&[]);
    short[17] -= 1;
    check_all([
        untouched(
            "a fragment",
            &tables,
            Action::Drop,
            Counter::DropIpFragment,
            fragment,
        ),
        untouched(
            "seven bytes",
            &tables,
            Action::Drop,
            Counter::DropBadIcmp,
            short,
        ),
    ]);
}
