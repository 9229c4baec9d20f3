//! The session rule, which remembers.

use ebpf_common::{
    ids::WorkerId,
    maps::{Affinity, Counter, WorkerState},
    wire::{RpcHeader, flags},
};
use prog_tests::program::Program;

use crate::case::{Case, FUNCTION, request, tables, warm_on};

const SESSION: u64 = 7;

fn in_session() -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_SESSION,
        session_id: SESSION,
        ..request()
    }
}

#[test]
fn the_first_request_is_placed_and_the_next_one_follows_it() {
    let tables = tables(Affinity::Session);
    let mut program = Program::load(prog_tests::object(), &[]).unwrap();
    program.apply(&tables).unwrap();
    let created = [Counter::RouteWarm, Counter::SessionCreated];
    let first = Case::sent("first", tables.clone(), in_session(), 1, &created);
    first.check_in(&mut program);
    assert_eq!(first.tables.session(FUNCTION, SESSION), Some(WorkerId(1)));

    // Now worker 2 would be the one to choose, but the session has its place.
    let mut busy = tables;
    busy.set_load(1, 10, 10);
    busy.set_session(FUNCTION, SESSION, WorkerId(1));
    program.apply(&busy).unwrap();
    Case::sent("next", busy, in_session(), 1, &[Counter::RouteSession]).check_in(&mut program);
}

#[test]
fn a_session_outlives_draining_but_not_death() {
    for (state, worker, counters) in [
        (WorkerState::Up, 1, vec![Counter::RouteSession]),
        (WorkerState::Draining, 1, vec![Counter::RouteSession]),
        (
            WorkerState::Down,
            2,
            vec![Counter::RouteWarm, Counter::SessionMoved],
        ),
        (
            WorkerState::Absent,
            2,
            vec![Counter::RouteWarm, Counter::SessionMoved],
        ),
    ] {
        let mut tables = tables(Affinity::Session);
        warm_on(&mut tables, Affinity::Session, &[2]);
        tables.add_worker(1, state);
        tables.set_session(FUNCTION, SESSION, WorkerId(1));
        let mut program = Program::load(prog_tests::object(), &[]).unwrap();
        program.apply(&tables).unwrap();
        let case = Case::sent(state.name(), tables, in_session(), worker, &counters);
        case.check_in(&mut program);
        let lives_on = case.tables.session(FUNCTION, SESSION);
        assert_eq!(lives_on, Some(WorkerId(worker)), "{state:?}");
    }
}

#[test]
fn nothing_is_remembered_without_session_affinity_or_session() {
    for (affinity, header) in [
        (Affinity::None, in_session()),
        (Affinity::Shard, in_session()),
        (Affinity::Session, request()),
    ] {
        let tables = tables(affinity);
        let mut program = Program::load(prog_tests::object(), &[]).unwrap();
        program.apply(&tables).unwrap();
        let case = Case::sent("forgotten", tables, header, 1, &[Counter::RouteWarm]);
        case.check_in(&mut program);
        assert_eq!(case.tables.session(FUNCTION, SESSION), None);
    }
}
