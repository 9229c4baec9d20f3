//! What the rules remember, and what they give up when a row is full; and requests whose session or slot is not in their
//! header.

use ebpf_common::{
    hash::table_hash,
    ids::WorkerId,
    limits::PLACES_PER_ROW,
    maps::{
        Affinity, Counter, FunctionEntry, PktgenInfo, Place, Rate, VipInfo, VipKind, WorkerState,
        features, home_index, row_index,
    },
    schema::{Key, SchemaEntry, SchemaTarget},
    wire::{RpcHeader, flags},
};

use super::{FUNCTION, counted, request, run, run_header, tables, warm_on, worker_of};
use crate::{
    Verdict,
    testing::{
        FakeTables,
        frame::{Frame, Transport, VIP, VIP_PORT},
    },
};

fn in_session(session_id: u64) -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_SESSION,
        session_id,
        ..request()
    }
}

/// Runs a frame that must be sent; returns to whom.
fn sent(tables: &FakeTables, frame: Vec<u8>, outcome: Counter, details: &[Counter]) -> u16 {
    let (verdict, after, counters) = run(tables, frame);
    assert_eq!(verdict, Verdict::Tx);
    assert_eq!(counters, counted(outcome, details));
    worker_of(&after)
}

fn call(tables: &FakeTables, header: RpcHeader, outcome: Counter, details: &[Counter]) -> u16 {
    let frame = Frame::rpc(header, b"payload").bytes();
    sent(tables, frame, outcome, details)
}

#[test]
fn later_fragments_follow_the_first_one_until_its_worker_is_gone() {
    let mut tables = tables(Affinity::None);
    warm_on(&mut tables, Affinity::None, &[1]);
    let (first, later) = (request().with_fragment(0, 3), request().with_fragment(2, 3));
    let created = [Counter::FlowCreated];
    assert_eq!(call(&tables, first, Counter::RouteWarm, &created), 1);
    warm_on(&mut tables, Affinity::None, &[2]);
    assert_eq!(call(&tables, later, Counter::RouteFragment, &[]), 1);
    tables.add_worker(1, WorkerState::Draining);
    assert_eq!(call(&tables, later, Counter::RouteFragment, &[]), 1);
    tables.add_worker(1, WorkerState::Down);
    let moved = [Counter::FragmentUnplaced, Counter::FlowMoved];
    assert_eq!(call(&tables, later, Counter::RouteWarm, &moved), 2);
    assert_eq!(call(&tables, later, Counter::RouteFragment, &[]), 2);
}

#[test]
fn a_first_fragment_that_was_overtaken_follows_the_one_that_came_first() {
    let mut tables = tables(Affinity::None);
    warm_on(&mut tables, Affinity::None, &[1]);
    let (first, later) = (request().with_fragment(0, 3), request().with_fragment(2, 3));
    let alone = [Counter::FragmentUnplaced, Counter::FlowCreated];
    assert_eq!(call(&tables, later, Counter::RouteWarm, &alone), 1);
    warm_on(&mut tables, Affinity::None, &[2]);
    assert_eq!(call(&tables, first, Counter::RouteFragment, &[]), 1);
}

/// Sessions that all stand in one row, as many as it holds and `more`.
fn sessions_of_a_row(tables: &FakeTables, more: usize) -> (u32, Vec<u64>) {
    let config = tables.config.unwrap();
    let row_of = |session| {
        let hash = table_hash(config.table_secret(), session, FUNCTION.0);
        row_index(hash, config.session_mask)
    };
    let row = row_of(0);
    let sessions = (0..).filter(|session| row_of(*session) == row);
    (row, sessions.take(PLACES_PER_ROW as usize + more).collect())
}

#[test]
fn a_full_row_gives_up_what_was_not_used_since_the_last_search() {
    let mut tables = tables(Affinity::Session);
    warm_on(&mut tables, Affinity::Session, &[1]);
    let (row, sessions) = sessions_of_a_row(&tables, 1);
    let (last, others) = sessions.split_last().unwrap();
    for session in others {
        let created = [Counter::SessionCreated];
        call(&tables, in_session(*session), Counter::RouteWarm, &created);
    }
    for unused in 0..others.len() {
        let tables = tables.clone();
        let cell = &tables.sessions[row as usize][unused];
        cell.set(Place(cell.get()).with_referenced(false).0);
        let evicted = [Counter::SessionCreated, Counter::SessionEvicted];
        call(&tables, in_session(*last), Counter::RouteWarm, &evicted);
        for (place, session) in others.iter().enumerate() {
            let lives = tables.session(FUNCTION, *session).is_some();
            assert_eq!(lives, place != unused, "{place}");
        }
        assert_eq!(tables.session(FUNCTION, *last), Some(WorkerId(1)));
    }
}

#[test]
fn a_row_in_which_all_were_used_gives_up_one_and_calls_the_others_unused() {
    let mut tables = tables(Affinity::Session);
    warm_on(&mut tables, Affinity::Session, &[1]);
    let (row, sessions) = sessions_of_a_row(&tables, 1);
    let (last, others) = sessions.split_last().unwrap();
    for session in others {
        let created = [Counter::SessionCreated];
        call(&tables, in_session(*session), Counter::RouteWarm, &created);
    }
    let evicted = [Counter::SessionCreated, Counter::SessionEvicted];
    call(&tables, in_session(*last), Counter::RouteWarm, &evicted);
    let left = others
        .iter()
        .filter(|session| tables.session(FUNCTION, **session).is_some());
    assert_eq!(left.count(), others.len() - 1);
    let used = tables.sessions[row as usize]
        .iter()
        .filter(|place| Place(place.get()).is_referenced());
    assert_eq!(used.count(), 1, "the new one alone");
    // An entry that is found counts as used again.
    let lives = others
        .iter()
        .find(|session| tables.session(FUNCTION, **session).is_some());
    call(
        &tables,
        in_session(*lives.unwrap()),
        Counter::RouteSession,
        &[],
    );
    let used = tables.sessions[row as usize]
        .iter()
        .filter(|place| Place(place.get()).is_referenced());
    assert_eq!(used.count(), 2);
}

/// A packet of a flow to the VIP at port 9.
fn flow(source_port: u16) -> Frame {
    Frame {
        source_port,
        port: 9,
        ..Frame::udp(b"anything".to_vec())
    }
}

/// Tables with that VIP; the entries of the Maglev table are worker 1's and worker 2's in turn.
fn with_flows() -> FakeTables {
    let mut tables = tables(Affinity::None);
    tables.add_vip_of(VIP, 9, 17, VipInfo::new(4, VipKind::L4));
    for entry in 0..65_537 {
        let index = home_index(tables.generation(), 0, entry, 0);
        let worker = WorkerId(1 + entry as u16 % 2);
        tables.home.insert(index, worker);
    }
    tables
}

/// The client's host tells that an answer to `flow` did not arrive.
fn error_about(flow: &Frame) -> Vec<u8> {
    let answer = Frame {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.port,
        port: flow.source_port,
        ..flow.clone()
    };
    Frame {
        transport: Transport::Icmp {
            kind: 3,
            code: 3,
            rest: [0; 4],
        },
        datagram: answer.packet(),
        ..flow.clone()
    }
    .bytes()
}

#[test]
fn a_flow_whose_entry_is_lost_finds_its_worker_whatever_the_load_and_so_do_its_errors() {
    let mut tables = with_flows();
    tables.config.as_mut().unwrap().home_bound = 2;
    let created = [Counter::FlowCreated];
    let mut workers = [0; 2];
    for port in 1..=50 {
        let place = |tables: &FakeTables| {
            let frame = flow(port).bytes();
            let worker = sent(tables, frame, Counter::RouteMaglev, &created);
            tables.flows.iter().flatten().for_each(|place| place.set(0));
            let error = error_about(&flow(port));
            assert_eq!(sent(tables, error, Counter::RouteIcmp, &[]), worker);
            worker
        };
        let idle = place(&tables);
        tables.set_load(idle, 10, 10);
        assert_eq!(place(&tables), idle, "port {port}, its worker full");
        tables.set_load(idle, 0, 10);
        // As it is down, both go on to the same other one.
        tables.add_worker(idle, WorkerState::Down);
        let frame = flow(port).bytes();
        let (_, _, counters) = run(&tables, frame.clone());
        assert_eq!(counters[&Counter::HomeProbed], 1);
        assert_ne!(sent(&tables, frame, Counter::RouteFlow, &[]), idle);
        tables.flows.iter().flatten().for_each(|place| place.set(0));
        let error = error_about(&flow(port));
        assert_ne!(sent(&tables, error, Counter::RouteIcmp, &[]), idle);
        tables.add_worker(idle, WorkerState::Up);
        workers[usize::from(idle) - 1] += 1;
    }
    assert!(workers[0] > 0 && workers[1] > 0, "{workers:?}");
}

#[test]
fn flows_and_messages_share_a_table_and_push_each_other_out() {
    let mut tables = with_flows();
    warm_on(&mut tables, Affinity::None, &[1]);
    tables.config.as_mut().unwrap().flow_mask = 0;
    for port in 1..=PLACES_PER_ROW as u16 {
        let created = [Counter::FlowCreated];
        sent(&tables, flow(port).bytes(), Counter::RouteMaglev, &created);
    }
    let evicted = [Counter::FlowEvicted];
    let ninth = flow(100).bytes();
    sent(&tables, ninth.clone(), Counter::RouteMaglev, &evicted);
    sent(&tables, ninth, Counter::RouteFlow, &[]);
    let first = request().with_fragment(0, 2);
    call(&tables, first, Counter::RouteWarm, &evicted);
    call(
        &tables,
        request().with_fragment(1, 2),
        Counter::RouteFragment,
        &[],
    );
}

/// Two entries may go at once, and one more every 10 ms; the row is full of flows in use.
fn flooded() -> FakeTables {
    let mut tables = with_flows();
    let config = tables.config.as_mut().unwrap();
    config.flow_mask = 0;
    config.features |= features::EVICTION_RATE;
    config.eviction_rate = Rate {
        interval_ns: 10_000_000,
        tolerance_ns: 10_000_000,
    };
    for port in 1..=PLACES_PER_ROW as u16 {
        let created = [Counter::FlowCreated];
        sent(&tables, flow(port).bytes(), Counter::RouteMaglev, &created);
    }
    tables
}

#[test]
fn a_flood_of_new_flows_pushes_out_no_more_than_the_rate_of_evictions() {
    let tables = flooded();
    let details: Vec<_> = (100..1_100)
        .map(|port| {
            let (verdict, _, counters) = run(&tables, flow(port).bytes());
            assert_eq!(verdict, Verdict::Tx);
            assert_eq!(counters[&Counter::RouteMaglev], 1);
            let evicted = counted(Counter::RouteMaglev, &[Counter::FlowEvicted]);
            let not_kept = counted(Counter::RouteMaglev, &[Counter::FlowNotKept]);
            assert!(counters == evicted || counters == not_kept, "{counters:?}");
            counters == evicted
        })
        .collect();
    assert_eq!(details.iter().filter(|evicted| **evicted).count(), 2);
    let is_kept = |port: &u16| {
        let counters = run(&tables, flow(*port).bytes()).2;
        counters.contains_key(&Counter::RouteFlow)
    };
    let kept = (1..=PLACES_PER_ROW as u16).filter(is_kept).count();
    assert_eq!(kept, PLACES_PER_ROW as usize - 2);
    tables.now_ns.set(tables.now_ns.get() + 10_000_000);
    let late = flow(2_000).bytes();
    let evicted = [Counter::FlowEvicted];
    sent(&tables, late.clone(), Counter::RouteMaglev, &evicted);
    sent(&tables, late, Counter::RouteFlow, &[]);
}

#[test]
fn a_flow_that_is_not_kept_goes_where_maglev_says_packet_by_packet_and_messages_are_kept() {
    let mut tables = flooded();
    warm_on(&mut tables, Affinity::None, &[1]);
    for port in 100..102 {
        let evicted = [Counter::FlowEvicted];
        sent(&tables, flow(port).bytes(), Counter::RouteMaglev, &evicted);
    }
    let packet = |tables: &FakeTables| {
        let not_kept = [Counter::FlowNotKept];
        sent(tables, flow(102).bytes(), Counter::RouteMaglev, &not_kept)
    };
    let worker = packet(&tables);
    assert_eq!(packet(&tables), worker);
    tables.add_worker(worker, WorkerState::Down);
    let (verdict, after, counters) = run(&tables, flow(102).bytes());
    assert_eq!(verdict, Verdict::Tx);
    assert_ne!(worker_of(&after), worker);
    let probed = [Counter::HomeProbed, Counter::FlowNotKept];
    assert_eq!(counters, counted(Counter::RouteMaglev, &probed));
    tables.add_worker(worker, WorkerState::Up);
    let first = request().with_fragment(0, 2);
    call(&tables, first, Counter::RouteWarm, &[Counter::FlowEvicted]);
    let later = request().with_fragment(1, 2);
    call(&tables, later, Counter::RouteFragment, &[]);
}

#[test]
fn without_a_table_of_flows_packets_are_placed_and_not_remembered() {
    let mut tables = tables(Affinity::Session);
    warm_on(&mut tables, Affinity::Session, &[1]);
    tables.flows.clear();
    tables.sessions.clear();
    call(
        &tables,
        request().with_fragment(0, 2),
        Counter::RouteWarm,
        &[],
    );
    call(&tables, in_session(7), Counter::RouteWarm, &[]);
}

/// A function with `affinity` that finds its key by `schema`.
fn with_schema(affinity: Affinity, schema: SchemaEntry) -> FakeTables {
    let mut tables = tables(affinity);
    let entry = FunctionEntry {
        schema: 1,
        ..FunctionEntry::new(affinity, &[WorkerId(1)])
    };
    tables.functions.insert(FUNCTION, entry);
    tables.schemas = vec![schema];
    tables
}

#[test]
fn a_slot_in_the_payload_leads_to_its_owner_unless_the_header_names_one() {
    let payload = br#"{"other": 1, "user": "ann"}"#;
    let schema = SchemaEntry::json(SchemaTarget::Slot, "user").unwrap();
    let Some(Key::Slot(slot)) = schema.find(payload) else {
        panic!("the payload holds a slot");
    };
    let mut tables = with_schema(Affinity::Shard, schema);
    tables.set_slot(slot, WorkerId(2));
    let frame = Frame::rpc(request(), payload);
    assert_eq!(sent(&tables, frame.bytes(), Counter::RouteShard, &[]), 2);
    // Of a packet in IP fragments the first one holds the beginning of the payload.
    let whole = [payload.as_slice(), &[b' '; 100]].concat();
    let first = Frame {
        more_fragments: true,
        held: Some(8 + 64 + payload.len()),
        ..Frame::rpc(request(), &whole)
    };
    assert_eq!(sent(&tables, first.bytes(), Counter::RouteShard, &[]), 2);
    let elsewhere = ebpf_common::ids::SlotId(slot.0 ^ 1);
    tables.set_slot(elsewhere, WorkerId(1));
    let named = RpcHeader {
        flags: request().flags | flags::HAS_SLOT,
        slot: elsewhere,
        ..request()
    };
    let frame = Frame::rpc(named, payload).bytes();
    assert_eq!(sent(&tables, frame, Counter::RouteShard, &[]), 1);
}

#[test]
fn a_session_in_the_payload_is_remembered() {
    let payload = [1 << 3 | 2, 3, b'a', b'n', b'n'];
    let schema = SchemaEntry::protobuf(SchemaTarget::Session, &[1]).unwrap();
    let tables = with_schema(Affinity::Session, schema);
    let frame = Frame::rpc(request(), &payload).bytes();
    let created = [Counter::SessionCreated];
    sent(&tables, frame.clone(), Counter::RouteWarm, &created);
    sent(&tables, frame, Counter::RouteSession, &[]);
}

#[test]
fn a_key_that_is_missing_is_counted_and_an_empty_payload_is_not_searched() {
    let schema = SchemaEntry::fixed(SchemaTarget::Session, 100, 8).unwrap();
    let mut tables = with_schema(Affinity::Session, schema);
    let missed = [Counter::SchemaMissed];
    let frame = Frame::rpc(request(), b"short").bytes();
    sent(&tables, frame.clone(), Counter::RouteWarm, &missed);
    sent(
        &tables,
        Frame::rpc(request(), b"").bytes(),
        Counter::RouteWarm,
        &[],
    );
    tables.schemas.clear();
    sent(&tables, frame, Counter::RouteWarm, &missed);
}

/// A later fragment's payload is not the message's beginning, and a RESUME's is no message.
#[test]
fn a_key_is_looked_for_where_the_payload_is_the_messages_beginning() {
    let schema = SchemaEntry::fixed(SchemaTarget::Session, 0, 8).unwrap();
    let tables = with_schema(Affinity::Session, schema);
    let payload = 7_u64.to_be_bytes();
    let resume = RpcHeader {
        flags: request().flags | flags::RESUME,
        ..request()
    };
    let alone = [Counter::FragmentUnplaced, Counter::FlowCreated];
    for (header, details) in [
        (request().with_fragment(1, 2), alone.as_slice()),
        (resume, &[]),
    ] {
        let frame = Frame::rpc(header, &payload).bytes();
        sent(&tables, frame, Counter::RouteWarm, details);
    }
    let frame = Frame::rpc(request(), &payload).bytes();
    let created = [Counter::SessionCreated];
    sent(&tables, frame, Counter::RouteWarm, &created);
}

#[test]
fn packets_of_pktgen_have_sessions_and_slots_by_their_number() {
    let mut tables = tables(Affinity::Session);
    warm_on(&mut tables, Affinity::Session, &[1]);
    tables.add_vip_of(VIP, VIP_PORT, 17, VipInfo::new(3, VipKind::Pktgen));
    tables.pktgen = vec![PktgenInfo::new(&[FUNCTION], 4)];
    let created = [Counter::SessionCreated];
    for sequence in 0..4 {
        let frame = Frame::pktgen(sequence).bytes();
        sent(&tables, frame, Counter::RouteWarm, &created);
        assert!(tables.session(FUNCTION, u64::from(sequence)).is_some());
    }
    sent(
        &tables,
        Frame::pktgen(6).bytes(),
        Counter::RouteSession,
        &[],
    );
    warm_on(&mut tables, Affinity::Shard, &[1]);
    tables.set_slot(ebpf_common::ids::SlotId(7), WorkerId(2));
    let frame = Frame::pktgen(7 + 16_384).bytes();
    assert_eq!(sent(&tables, frame, Counter::RouteShard, &[]), 2);
}

/// The kernel finds no row either; both say the same.
#[test]
fn a_vip_of_pktgen_whose_mix_is_not_there_is_not_configured() {
    let mut tables = tables(Affinity::None);
    tables.add_vip_of(VIP, VIP_PORT, 17, VipInfo::new(3, VipKind::Pktgen));
    let (verdict, _, counters) = run(&tables, Frame::pktgen(1).bytes());
    assert_eq!(verdict, Verdict::Drop(crate::DropReason::NotConfigured));
    assert_eq!(counters, counted(Counter::DropNotConfigured, &[]));
    let (_, _, counters) = run_header(&tables, request());
    assert_eq!(counters, counted(Counter::DropNotPktgen, &[]));
}
