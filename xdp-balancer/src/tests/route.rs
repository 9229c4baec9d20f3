//! The rules: which one applies, whom it chooses, and what it remembers.

use std::collections::BTreeSet;

use ebpf_common::{
    cookie::CookieScope,
    ids::{FunctionId, SlotId, WorkerId},
    limits::HOME_PROBES,
    maps::{Affinity, Counter, WorkerState},
    wire::{Kind, RpcHeader, Status, flags},
};
use proptest::prelude::*;

use super::{FUNCTION, counted, request, run_header, tables, warm_on, worker_of};
use crate::{
    DropReason, Rule, Verdict,
    testing::{FakeTables, frame::RPC_OFFSET},
};

fn with_cookie(tables: &FakeTables, worker: u16, header: RpcHeader) -> RpcHeader {
    let session = if header.has(flags::HAS_SESSION) {
        header.session_id
    } else {
        0
    };
    let scope = CookieScope {
        function: header.function,
        session,
    };
    let keys = tables.config.unwrap().cookie_keys();
    RpcHeader {
        flags: header.flags | flags::HAS_COOKIE,
        route_cookie: keys.seal(WorkerId(worker), scope),
        ..header
    }
}

fn in_session(session_id: u64) -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_SESSION,
        session_id,
        ..request()
    }
}

fn on_slot(slot: u16) -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_SLOT,
        slot: SlotId(slot),
        ..request()
    }
}

/// The status in an answer's RPC header.
fn status_of(frame: &[u8]) -> u16 {
    let (header, _) = RpcHeader::parse(&frame[RPC_OFFSET..]).unwrap().unwrap();
    header.status
}

/// Checks the outcome of one request, and returns the worker it went to.
fn sent(tables: &FakeTables, header: RpcHeader, rule: Rule, details: &[Counter]) -> u16 {
    let (verdict, frame, counters) = run_header(tables, header);
    assert_eq!(counters, counted(rule.counter(), details));
    assert_eq!(verdict, Verdict::Tx);
    worker_of(&frame)
}

#[test]
fn a_valid_cookie_comes_first_and_needs_no_function() {
    let mut tables = tables(Affinity::Shard);
    tables.functions.clear();
    for worker in [1, 2] {
        let header = with_cookie(&tables, worker, on_slot(5));
        assert_eq!(sent(&tables, header, Rule::Cookie, &[]), worker);
    }
}

#[test]
fn a_cookie_is_bound_to_its_session() {
    let tables = tables(Affinity::None);
    let header = with_cookie(&tables, 1, in_session(8));
    assert_eq!(sent(&tables, header, Rule::Cookie, &[]), 1);
    let other = RpcHeader {
        session_id: 9,
        ..header
    };
    sent(&tables, other, Rule::Warm, &[Counter::CookieForged]);
}

#[test]
fn a_session_id_without_its_flag_binds_no_cookie() {
    let tables = tables(Affinity::None);
    let header = with_cookie(
        &tables,
        1,
        RpcHeader {
            session_id: 8,
            ..request()
        },
    );
    assert_eq!(sent(&tables, header, Rule::Cookie, &[]), 1);
}

#[test]
fn a_draining_worker_keeps_what_it_has() {
    let mut tables = tables(Affinity::Session);
    tables.add_worker(1, WorkerState::Draining);
    let header = with_cookie(&tables, 1, request());
    assert_eq!(sent(&tables, header, Rule::Cookie, &[]), 1);
    tables.set_session(FUNCTION, 8, WorkerId(1));
    assert_eq!(sent(&tables, in_session(8), Rule::Session, &[]), 1);
}

#[test]
fn bad_cookies_are_counted_and_fall_through() {
    let mut tables = tables(Affinity::None);
    warm_on(&mut tables, Affinity::None, &[2]);
    let good = with_cookie(&tables, 1, request());
    let forged = RpcHeader {
        route_cookie: good.route_cookie ^ 1,
        ..good
    };
    assert_eq!(
        sent(&tables, forged, Rule::Warm, &[Counter::CookieForged]),
        2
    );
    let stale = RpcHeader {
        route_cookie: good.route_cookie ^ (4 << 40),
        ..good
    };
    assert_eq!(sent(&tables, stale, Rule::Warm, &[Counter::CookieStale]), 2);
    tables.add_worker(1, WorkerState::Down);
    assert_eq!(
        sent(&tables, good, Rule::Warm, &[Counter::CookieWorkerGone]),
        2
    );
    let unknown = with_cookie(&tables, 500, request());
    assert_eq!(
        sent(&tables, unknown, Rule::Warm, &[Counter::CookieWorkerGone]),
        2
    );
}

#[test]
fn a_cookie_without_its_flag_is_not_read() {
    let tables = tables(Affinity::None);
    let header = RpcHeader {
        route_cookie: 0xdead,
        ..request()
    };
    sent(&tables, header, Rule::Warm, &[]);
}

#[test]
fn a_session_stays_where_it_was_placed() {
    let mut tables = tables(Affinity::Session);
    let first = sent(
        &tables,
        in_session(8),
        Rule::Warm,
        &[Counter::SessionCreated],
    );
    tables.set_load(first, 9, 10);
    for request_id in 0..100 {
        let header = RpcHeader {
            request_id,
            ..in_session(8)
        };
        assert_eq!(sent(&tables, header, Rule::Session, &[]), first);
    }
}

#[test]
fn a_session_of_a_dead_worker_moves_once() {
    let mut tables = tables(Affinity::Session);
    tables.set_session(FUNCTION, 8, WorkerId(1));
    tables.add_worker(1, WorkerState::Down);
    warm_on(&mut tables, Affinity::Session, &[2]);
    assert_eq!(
        sent(&tables, in_session(8), Rule::Warm, &[Counter::SessionMoved]),
        2
    );
    assert_eq!(sent(&tables, in_session(8), Rule::Session, &[]), 2);
}

#[test]
fn a_session_is_remembered_only_where_the_function_asks_for_it() {
    for affinity in [Affinity::None, Affinity::Shard] {
        let tables = tables(affinity);
        sent(&tables, in_session(8), Rule::Warm, &[]);
        assert_eq!(tables.session(FUNCTION, 8), None);
    }
    let tables = tables(Affinity::Session);
    let without = RpcHeader {
        session_id: 8,
        ..request()
    };
    sent(&tables, without, Rule::Warm, &[]);
    assert_eq!(tables.session(FUNCTION, 8), None);
}

#[test]
fn a_session_without_any_worker_leaves_no_entry() {
    let mut tables = tables(Affinity::Session);
    tables.workers.clear();
    let (_, _, counters) = run_header(&tables, in_session(8));
    assert_eq!(
        counters,
        counted(Counter::ErrorNoWorker, &[Counter::WarmFull])
    );
    assert_eq!(tables.session(FUNCTION, 8), None);
}

#[test]
fn a_slot_goes_to_its_owner_and_nowhere_else() {
    let mut tables = tables(Affinity::Shard);
    tables.set_slot(SlotId(0), WorkerId(1));
    tables.set_slot(SlotId(16_383), WorkerId(2));
    assert_eq!(sent(&tables, on_slot(0), Rule::Shard, &[]), 1);
    assert_eq!(sent(&tables, on_slot(16_383), Rule::Shard, &[]), 2);
    tables.add_worker(1, WorkerState::Draining);
    assert_eq!(sent(&tables, on_slot(0), Rule::Shard, &[]), 1);
    tables.add_worker(1, WorkerState::Down);
    let (verdict, frame, counters) = run_header(&tables, on_slot(0));
    assert_eq!(verdict, Verdict::Tx);
    assert_eq!(counters, counted(Counter::ErrorNoShardOwner, &[]));
    assert_eq!(status_of(&frame), Status::NoShardOwner as u16);
}

#[test]
fn slots_are_read_from_the_live_generation() {
    let mut tables = tables(Affinity::Shard);
    tables.set_slot(SlotId(5), WorkerId(1));
    tables.config.as_mut().unwrap().generation = 7;
    tables.set_slot(SlotId(5), WorkerId(2));
    assert_eq!(sent(&tables, on_slot(5), Rule::Shard, &[]), 2);
    tables.config.as_mut().unwrap().generation = 8;
    assert_eq!(sent(&tables, on_slot(5), Rule::Shard, &[]), 1);
}

#[test]
fn a_slot_matters_only_where_the_function_asks_for_it() {
    let mut tables = tables(Affinity::None);
    tables.set_slot(SlotId(5), WorkerId(1));
    warm_on(&mut tables, Affinity::None, &[2]);
    assert_eq!(sent(&tables, on_slot(5), Rule::Warm, &[]), 2);
    warm_on(&mut tables, Affinity::Shard, &[2]);
    assert_eq!(sent(&tables, request(), Rule::Warm, &[]), 2);
}

#[test]
fn warm_takes_the_less_loaded_of_two() {
    let mut tables = tables(Affinity::None);
    tables.set_load(1, 3, 10);
    tables.set_load(2, 4, 10);
    for request_id in 0..50 {
        let header = RpcHeader::request(FUNCTION, request_id);
        tables.set_load(1, 3, 10);
        assert_eq!(sent(&tables, header, Rule::Warm, &[]), 1);
    }
    for request_id in 0..50 {
        let header = RpcHeader::request(FUNCTION, request_id);
        tables.set_load(1, 5, 10);
        tables.set_load(2, 4, 10);
        assert_eq!(sent(&tables, header, Rule::Warm, &[]), 2);
    }
}

#[test]
fn warm_skips_workers_that_are_full_down_or_draining() {
    let mut tables = tables(Affinity::None);
    tables.set_load(1, 10, 10);
    assert_eq!(sent(&tables, request(), Rule::Warm, &[]), 2);
    tables.set_load(1, 0, 10);
    for state in [
        WorkerState::Down,
        WorkerState::Draining,
        WorkerState::Absent,
    ] {
        tables.add_worker(1, state);
        assert_eq!(sent(&tables, request(), Rule::Warm, &[]), 2);
    }
}

#[test]
fn when_both_are_full_home_decides() {
    let mut tables = tables(Affinity::None);
    tables.add_worker(3, WorkerState::Up);
    tables.set_home(FUNCTION, &[WorkerId(3)]);
    tables.set_load(1, 10, 10);
    tables.set_load(2, 0, 0);
    assert_eq!(
        sent(&tables, request(), Rule::Home, &[Counter::WarmFull]),
        3
    );
}

#[test]
fn two_choices_spread_over_all_warm_workers_of_equal_load() {
    let mut tables = tables(Affinity::None);
    let all: Vec<u16> = (1..=16).collect();
    for worker in &all {
        tables.add_worker(*worker, WorkerState::Up);
    }
    for warm_len in 1..=16 {
        warm_on(&mut tables, Affinity::None, &all[..warm_len]);
        let seen: BTreeSet<u16> = (0..400)
            .map(|id| {
                for worker in &all {
                    tables.set_load(*worker, 0, 10);
                }
                sent(&tables, RpcHeader::request(FUNCTION, id), Rule::Warm, &[])
            })
            .collect();
        assert_eq!(seen.len(), warm_len);
    }
}

#[test]
fn a_warm_length_that_lies_is_bounded() {
    let mut tables = tables(Affinity::None);
    tables.functions.get_mut(&FUNCTION).unwrap().warm_len = 255;
    for request_id in 0..200 {
        let (_, _, counters) = run_header(&tables, RpcHeader::request(FUNCTION, request_id));
        assert_eq!(counters[&Counter::Packets], 1);
    }
}

#[test]
fn a_function_that_is_warm_nowhere_goes_home() {
    let mut tables = tables(Affinity::None);
    warm_on(&mut tables, Affinity::None, &[]);
    assert_eq!(sent(&tables, request(), Rule::Home, &[]), 2);
}

#[test]
fn home_probes_on_past_workers_that_take_no_new_work() {
    let mut tables = tables(Affinity::None);
    warm_on(&mut tables, Affinity::None, &[]);
    let mut probes = vec![WorkerId::NONE; HOME_PROBES as usize];
    *probes.last_mut().unwrap() = WorkerId(1);
    probes[0] = WorkerId(3);
    tables.add_worker(3, WorkerState::Draining);
    tables.set_home(FUNCTION, &probes);
    assert_eq!(
        sent(&tables, request(), Rule::Home, &[Counter::HomeProbed]),
        1
    );
    tables.set_home(FUNCTION, &[WorkerId(3), WorkerId(1)]);
    assert_eq!(
        sent(&tables, request(), Rule::Home, &[Counter::HomeProbed]),
        1
    );
    tables.set_home(FUNCTION, &[]);
    let (_, _, counters) = run_header(&tables, request());
    assert_eq!(counters, counted(Counter::ErrorNoWorker, &[]));
}

#[test]
fn tables_that_are_missing_or_short_drop_the_packet() {
    let not_configured = |tables: &FakeTables, header| {
        let (verdict, _, counters) = run_header(tables, header);
        assert_eq!(verdict, Verdict::Drop(DropReason::NotConfigured));
        assert_eq!(counters, counted(Counter::DropNotConfigured, &[]));
    };
    let mut no_config = tables(Affinity::None);
    no_config.config = None;
    not_configured(&no_config, request());
    let mut short_slots = tables(Affinity::Shard);
    short_slots.slots_len = 5;
    not_configured(&short_slots, on_slot(5));
    let mut short_home = tables(Affinity::None);
    warm_on(&mut short_home, Affinity::None, &[]);
    short_home.home_len = 0;
    not_configured(&short_home, request());
}

#[test]
fn a_ping_is_routed_like_a_request() {
    let ping = RpcHeader {
        kind: Kind::Ping,
        ..request()
    };
    sent(&tables(Affinity::None), ping, Rule::Warm, &[]);
}

proptest! {
    #[test]
    fn the_choice_of_two_is_never_the_busier_one(loads in prop::collection::vec(0u32..12, 16), request_id: u64) {
        let mut tables = tables(Affinity::None);
        let workers: Vec<u16> = (1..=16).collect();
        for (worker, load) in workers.iter().zip(&loads) {
            tables.add_worker(*worker, WorkerState::Up);
            tables.set_load(*worker, *load, 100);
        }
        warm_on(&mut tables, Affinity::None, &workers);
        let chosen = sent(&tables, RpcHeader::request(FUNCTION, request_id), Rule::Warm, &[]);
        // With the chosen one full, the same request meets the other of the two.
        tables.set_load(chosen, 100, 100);
        let other = sent(&tables, RpcHeader::request(FUNCTION, request_id), Rule::Warm, &[]);
        prop_assert_ne!(chosen, other);
        prop_assert!(loads[usize::from(chosen) - 1] <= loads[usize::from(other) - 1]);
    }

    #[test]
    fn unknown_functions_are_never_routed(function: u64) {
        prop_assume!(function != FUNCTION.0);
        let header = RpcHeader { function: FunctionId(function), ..in_session(8) };
        let (_, _, counters) = run_header(&tables(Affinity::Session), header);
        prop_assert_eq!(counters, counted(Counter::ErrorUnknownFunction, &[]));
    }
}
