//! VIPs that carry no RPC header, and what the rules remember of flows, messages and sessions.

use ebpf_common::{
    hash::table_hash,
    ids::{FunctionId, WorkerId},
    maps::{
        Affinity, Counter, FunctionEntry, PktgenInfo, Place, VipInfo, VipKind, WorkerLoad,
        WorkerState, home_index, name, row_index,
    },
    wire::{RpcHeader, flags},
};
use prog_tests::program::Action;
use xdp_balancer::testing::{
    FakeTables,
    frame::{Frame, VIP, VIP_PORT, forwarded},
};

use crate::case::{Case, Expect, FUNCTION, all_at_home, loaded, request, tables, warm_on};

/// Tables whose only VIP is of `kind`, with every Maglev entry on worker 2.
fn tables_of(kind: VipKind) -> FakeTables {
    let mut tables = tables(Affinity::None);
    tables.vips.clear();
    tables.add_vip_of(VIP, VIP_PORT, 17, VipInfo::new(3, kind));
    all_at_home(&mut tables, 0, 2);
    tables
}

/// `frame` goes to `worker` of `tables`.
fn sent(
    name: &'static str,
    tables: &FakeTables,
    frame: &Frame,
    worker: u16,
    counters: &[Counter],
) -> Case {
    let frame = frame.bytes();
    Case {
        name,
        tables: tables.clone(),
        expect: Expect {
            action: Action::Tx,
            frame: forwarded(&frame, &tables.workers[&WorkerId(worker)]),
            counters: counters.to_vec(),
        },
        frame,
    }
}

/// The same tables after `case` has been run on them, as the host has them.
fn after(case: Case) -> FakeTables {
    case.tables
}

#[test]
fn a_flow_stays_where_it_was_placed_while_its_worker_takes_work() {
    let tables = tables_of(VipKind::L4);
    let mut program = loaded(&tables);
    let frame = Frame::udp(b"anything".to_vec());
    let placed = [Counter::RouteMaglev, Counter::FlowCreated];
    let first = sent("first", &tables, &frame, 2, &placed);
    first.check_in(&mut program);

    let mut tables = after(first);
    all_at_home(&mut tables, 0, 1);
    program.apply(&tables).unwrap();
    let kept = sent("kept", &tables, &frame, 2, &[Counter::RouteFlow]);
    kept.check_in(&mut program);

    let mut tables = after(kept);
    tables.add_worker(2, WorkerState::Draining);
    program.apply(&tables).unwrap();
    let drained = sent("drained", &tables, &frame, 2, &[Counter::RouteFlow]);
    drained.check_in(&mut program);

    let mut tables = after(drained);
    tables.add_worker(2, WorkerState::Down);
    program.apply(&tables).unwrap();
    let moved = [Counter::RouteMaglev, Counter::FlowMoved];
    sent("moved", &tables, &frame, 1, &moved).check_in(&mut program);
}

/// On this balancer or another one: what is in no table is placed by the flow alone.
#[test]
fn a_flow_whose_entry_is_lost_finds_its_worker_whatever_the_load() {
    let mut tables = tables_of(VipKind::L4);
    for entry in 0..65_537 {
        let index = home_index(tables.generation(), 0, entry, 0);
        tables.home.insert(index, WorkerId(1 + entry as u16 % 2));
    }
    tables.config.as_mut().unwrap().home_bound = 2;
    let mut program = loaded(&tables);
    // What the program only reads is there; writing the Maglev table again takes long.
    tables.home.clear();
    tables.vip_filter.clear();
    let mut workers = |tables: &FakeTables| -> Vec<u8> {
        program.apply(tables).unwrap();
        let mut worker_of = |source_port| {
            let flow = Frame {
                source_port,
                ..Frame::udp(b"anything".to_vec())
            };
            let (_, after) = program.run(&flow.bytes()).unwrap();
            // The last byte of its MAC address.
            after[5]
        };
        (1..=8).map(&mut worker_of).collect()
    };
    let idle = workers(&tables);
    assert!(idle.contains(&1) && idle.contains(&2), "{idle:?}");
    for full in [1, 2] {
        tables.set_load(full, 10, 10);
        assert_eq!(workers(&tables), idle, "worker {full} is full");
        tables.set_load(full, 0, 10);
    }
}

#[test]
fn a_flow_uses_the_table_of_its_pool() {
    let mut tables = tables_of(VipKind::L4);
    let vip = VipInfo {
        pool: 5,
        ..VipInfo::new(3, VipKind::L4)
    };
    tables.add_vip_of(VIP, VIP_PORT, 17, vip);
    all_at_home(&mut tables, 5, 1);
    let placed = [Counter::RouteMaglev, Counter::FlowCreated];
    sent("pool 5", &tables, &Frame::udp(vec![0; 9]), 1, &placed).check();
}

#[test]
fn a_flow_without_any_worker_is_dropped() {
    let mut tables = tables_of(VipKind::L4);
    tables.workers.clear();
    let mut case = Case::untouched(
        "no worker",
        Action::Drop,
        Counter::DropNoWorker,
        Frame::udp(vec![0; 9]).bytes(),
    );
    case.tables = tables;
    case.check();
}

#[test]
fn any_port_takes_what_no_exact_port_takes() {
    let mut tables = tables(Affinity::None);
    all_at_home(&mut tables, 0, 2);
    tables.add_vip_of(VIP, 0, 17, VipInfo::new(4, VipKind::L4));
    let elsewhere = Frame {
        port: 9,
        ..Frame::udp(b"anything".to_vec())
    };
    let placed = [Counter::RouteMaglev, Counter::FlowCreated];
    sent("any port", &tables, &elsewhere, 2, &placed).check();
    let rpc = Frame::rpc(request(), b"payload");
    sent("its own port", &tables, &rpc, 1, &[Counter::RouteWarm]).check();
}

/// A QUIC packet whose destination connection id names worker 1 under configuration id 2.
fn quic(is_long: bool, config: u8, id_len: u8) -> Frame {
    let id = [config << 5 | (id_len - 1), 0, 1, 9, 9, 9, 9, 9];
    Frame::quic(is_long, &id)
}

#[test]
fn quic_goes_where_its_connection_id_says() {
    let mut tables = tables_of(VipKind::Quic);
    let vip = VipInfo {
        quic_config: 2,
        ..VipInfo::new(3, VipKind::Quic)
    };
    tables.add_vip_of(VIP, VIP_PORT, 17, vip);
    for is_long in [false, true] {
        sent(
            "id",
            &tables,
            &quic(is_long, 2, 8),
            1,
            &[Counter::RouteQuic],
        )
        .check();
    }
    let by_flow = [
        Counter::QuicUnknownId,
        Counter::RouteMaglev,
        Counter::FlowCreated,
    ];
    sent("another config", &tables, &quic(false, 3, 8), 2, &by_flow).check();
    sent("too short an id", &tables, &quic(true, 2, 6), 2, &by_flow).check();
    sent(
        "no id at all",
        &tables,
        &Frame::udp(vec![0x43]),
        2,
        &by_flow,
    )
    .check();
    let mut gone = tables.clone();
    gone.add_worker(1, WorkerState::Down);
    sent("its worker is down", &gone, &quic(false, 2, 8), 2, &by_flow).check();
}

#[test]
fn pktgen_packets_stand_for_requests_by_their_number() {
    let mut tables = tables_of(VipKind::Pktgen);
    let other = FunctionId(0xbeef);
    tables.pktgen = vec![PktgenInfo::new(&[FUNCTION, other], 4)];
    let shard = FunctionEntry::new(Affinity::Shard, &[]);
    tables.functions.insert(other, shard);
    tables.set_slot(ebpf_common::ids::SlotId(7), WorkerId(2));
    warm_on(&mut tables, Affinity::Session, &[1]);

    let placed = [Counter::RouteWarm, Counter::SessionCreated];
    let case = sent(
        "session 2 of the first",
        &tables,
        &Frame::pktgen(6),
        1,
        &placed,
    );
    let mut program = loaded(&tables);
    case.check_in(&mut program);
    let tables = after(case);
    assert_eq!(tables.session(FUNCTION, 2), Some(WorkerId(1)));
    let again = sent(
        "again",
        &tables,
        &Frame::pktgen(10),
        1,
        &[Counter::RouteSession],
    );
    again.check_in(&mut program);
    let tables = after(again);
    let shard = sent(
        "slot of the second",
        &tables,
        &Frame::pktgen(7),
        2,
        &[Counter::RouteShard],
    );
    shard.check_in(&mut program);
}

#[test]
fn what_is_not_of_pktgen_is_dropped() {
    let mut short = Case::untouched(
        "short",
        Action::Drop,
        Counter::DropNotPktgen,
        Frame::udp(vec![0xbe, 0x9b, 0xe9, 0x55]).bytes(),
    );
    short.tables = tables_of(VipKind::Pktgen);
    short.check();
    let mut rpc = Case::untouched(
        "RPC",
        Action::Drop,
        Counter::DropNotPktgen,
        Frame::rpc(request(), b"payload").bytes(),
    );
    rpc.tables = tables_of(VipKind::Pktgen);
    rpc.check();
}

#[test]
fn later_fragments_of_a_message_follow_the_first() {
    let tables = tables(Affinity::None);
    let mut program = loaded(&tables);
    let placed = [Counter::RouteWarm, Counter::FlowCreated];
    let first = Case::sent("first", tables, request().with_fragment(0, 3), 1, &placed);
    first.check_in(&mut program);

    let mut tables = after(first);
    warm_on(&mut tables, Affinity::None, &[2]);
    program.apply(&tables).unwrap();
    let later = request().with_fragment(2, 3);
    let follows = Case::sent("last", tables, later, 1, &[Counter::RouteFragment]);
    follows.check_in(&mut program);

    let tables = after(follows);
    let stranger = RpcHeader {
        request_id: 99,
        ..later
    };
    let alone = [
        Counter::FragmentUnplaced,
        Counter::RouteWarm,
        Counter::FlowCreated,
    ];
    Case::sent("first is lost", tables, stranger, 2, &alone).check_in(&mut program);
}

#[test]
fn warm_weighs_load_by_weight_and_keeps_to_caps() {
    let mut tables = tables(Affinity::None);
    warm_on(&mut tables, Affinity::None, &[1, 2]);
    tables.set_load(1, 6, 100);
    tables.set_load(2, 5, 100);
    Case::sent(
        "equal weights",
        tables.clone(),
        request(),
        2,
        &[Counter::RouteWarm],
    )
    .check();
    tables.workers.get_mut(&WorkerId(1)).unwrap().weight = 512;
    Case::sent(
        "twice the weight",
        tables.clone(),
        request(),
        1,
        &[Counter::RouteWarm],
    )
    .check();
    tables.workers.get_mut(&WorkerId(1)).unwrap().cap = 6;
    Case::sent("capped", tables, request(), 2, &[Counter::RouteWarm]).check();
}

#[test]
fn home_goes_on_beyond_its_bound_but_never_refuses_for_it() {
    let mut tables = tables(Affinity::None);
    warm_on(&mut tables, Affinity::None, &[]);
    tables.set_home(FUNCTION, &[WorkerId(2), WorkerId(1)]);
    tables.config.as_mut().unwrap().home_bound = 2;
    tables.set_load(2, 3, 100);
    let bounded = [Counter::HomeBounded, Counter::RouteHome];
    Case::sent("over its bound", tables.clone(), request(), 1, &bounded).check();
    tables.set_load(2, 2, 100);
    Case::sent(
        "at its bound",
        tables.clone(),
        request(),
        2,
        &[Counter::RouteHome],
    )
    .check();
    tables.set_load(2, 3, 100);
    tables.set_load(1, 3, 100);
    Case::sent("all over it", tables, request(), 2, &[Counter::RouteHome]).check();
}

#[test]
fn requests_are_counted_as_sent_to_their_worker() {
    let tables = tables(Affinity::None);
    let mut program = loaded(&tables);
    let frame = Frame::rpc(request(), b"payload").bytes();
    for _ in 0..5 {
        program.run(&frame).unwrap();
    }
    let later = Frame::rpc(request().with_fragment(1, 2), b"payload").bytes();
    program.run(&later).unwrap();
    let load = program.load_of(WorkerId(1)).unwrap();
    assert_eq!((load.sent, load.in_flight_now()), (5, 0));
    let reported = WorkerLoad {
        sequence: 1,
        ..load
    };
    assert_eq!(reported.in_flight_now(), 5);
    let traffic = program.traffic(name::WORKER_COUNTERS, 1).unwrap();
    let bytes = 5 * frame.len() as u64 + later.len() as u64;
    assert_eq!((traffic.packets, traffic.bytes), (6, bytes));
    let traffic = program.traffic(name::VIP_COUNTERS, 0).unwrap();
    assert_eq!((traffic.packets, traffic.bytes), (6, bytes));
}

/// Sessions that all stand in one row: the ninth evicts one of those that were not used.
#[test]
fn a_full_row_gives_up_what_was_not_used_and_counts_it() {
    let tables = tables(Affinity::Session);
    let mut program = loaded(&tables);
    let config = tables.config.unwrap();
    let hash = |session| table_hash(config.table_secret(), session, FUNCTION.0);
    let row = row_index(hash(0), config.session_mask);
    let sessions: Vec<u64> = (0..)
        .filter(|session| row_index(hash(*session), config.session_mask) == row)
        .take(9)
        .collect();
    let header = |session| RpcHeader {
        flags: request().flags | flags::HAS_SESSION,
        session_id: session,
        ..request()
    };
    let created = [Counter::RouteWarm, Counter::SessionCreated];
    let mut tables = tables;
    for session in &sessions[..8] {
        let case = Case::sent("created", tables, header(*session), 1, &created);
        case.check_in(&mut program);
        tables = after(case);
        tables.set_load(1, 0, 10);
    }
    // One that was not used since the last search; all others were.
    let cell = &tables.sessions[row as usize][3];
    cell.set(Place(cell.get()).with_referenced(false).0);
    let victim = sessions[3];
    program.apply(&tables).unwrap();
    let evicted = [
        Counter::RouteWarm,
        Counter::SessionCreated,
        Counter::SessionEvicted,
    ];
    let case = Case::sent("evicts", tables, header(sessions[8]), 1, &evicted);
    case.check_in(&mut program);
    let tables = after(case);
    for session in sessions {
        let lives = tables.session(FUNCTION, session).is_some();
        assert_eq!(lives, session != victim, "{session}");
    }
}
