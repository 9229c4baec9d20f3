//! The session rule, which remembers.

use ebpf_common::{
    maps::{Affinity, Counter, SessionEntry, SessionKey, WorkerState},
    wire::{RpcHeader, flags},
};
use prog_tests::program::Program;

use crate::case::{Case, FUNCTION, request, tables, warm_on};

const KEY: SessionKey = SessionKey {
    function: FUNCTION.0,
    session: 7,
};

fn in_session() -> RpcHeader {
    RpcHeader {
        flags: request().flags | flags::HAS_SESSION,
        session_id: KEY.session,
        ..request()
    }
}

const fn on(worker: u16) -> SessionEntry {
    SessionEntry {
        worker,
        reserved: 0,
    }
}

#[test]
fn the_first_request_is_placed_and_the_next_one_follows_it() {
    let tables = tables(Affinity::Session);
    let mut program = Program::load(prog_tests::object(), &[]).unwrap();
    program.apply(&tables).unwrap();
    let created = [Counter::RouteWarm, Counter::SessionCreated];
    Case::sent("first", tables.clone(), in_session(), 1, &created).check_in(&mut program);
    assert_eq!(program.sessions().unwrap()[&KEY], on(1));

    // Now worker 2 would be the one to choose, but the session has its place.
    let mut busy = tables;
    busy.set_load(1, 10, 10);
    busy.sessions.get_mut().insert(KEY, on(1));
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
        tables.sessions.get_mut().insert(KEY, on(1));
        let mut program = Program::load(prog_tests::object(), &[]).unwrap();
        program.apply(&tables).unwrap();
        Case::sent(state.name(), tables, in_session(), worker, &counters).check_in(&mut program);
        assert_eq!(program.sessions().unwrap()[&KEY], on(worker), "{state:?}");
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
        Case::sent("forgotten", tables, header, 1, &[Counter::RouteWarm]).check_in(&mut program);
        assert!(program.sessions().unwrap().is_empty());
    }
}
