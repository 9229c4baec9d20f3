//! The rules without memory: cookie, shard, warm, home; and both ways out.

use std::process::Command;

use ebpf_common::{
    cookie::CookieScope,
    ids::{SlotId, WorkerId},
    limits::HOME_PROBES,
    maps::{Affinity, Counter, WorkerState},
    wire::{Kind, RpcHeader, flags},
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use xdp_balancer::testing::{
    FakeTables,
    frame::{Frame, forwarded},
};

use crate::case::{Case, FUNCTION, check_all, request, tables, warm_on};

fn with_cookie(tables: &FakeTables, worker: u16) -> RpcHeader {
    let scope = CookieScope {
        function: FUNCTION,
        session: 0,
    };
    let keys = tables.config.unwrap().cookie_keys();
    RpcHeader {
        flags: request().flags | flags::HAS_COOKIE,
        route_cookie: keys.seal(WorkerId(worker), scope),
        ..request()
    }
}

#[test]
fn a_cookie_routes_if_it_is_ours_and_its_worker_lives() {
    let tables = tables(Affinity::None);
    let good = with_cookie(&tables, 2);
    let forged = RpcHeader {
        route_cookie: good.route_cookie ^ 1,
        ..good
    };
    let stale = RpcHeader {
        route_cookie: good.route_cookie ^ (1 << 46),
        ..good
    };
    let for_session = RpcHeader {
        flags: good.flags | flags::HAS_SESSION,
        session_id: 1,
        ..good
    };
    let nobody = with_cookie(&tables, 9_999);
    let mut down = tables.clone();
    down.add_worker(2, WorkerState::Down);
    let mut draining = tables.clone();
    draining.add_worker(2, WorkerState::Draining);
    let mut no_function = tables.clone();
    no_function.functions.clear();
    let cookie = [Counter::RouteCookie];
    let is_forged = [Counter::CookieForged, Counter::RouteWarm];
    let is_stale = [Counter::CookieStale, Counter::RouteWarm];
    let is_gone = [Counter::CookieWorkerGone, Counter::RouteWarm];
    check_all([
        Case::sent("valid", tables.clone(), good, 2, &cookie),
        Case::sent("draining", draining, good, 2, &cookie),
        Case::sent("without its function", no_function, good, 2, &cookie),
        Case::sent("forged", tables.clone(), forged, 1, &is_forged),
        Case::sent("stale", tables.clone(), stale, 1, &is_stale),
        Case::sent("of no session", tables.clone(), for_session, 1, &is_forged),
        Case::sent("worker down", down, good, 1, &is_gone),
        Case::sent("worker beyond the table", tables, nobody, 1, &is_gone),
    ]);
}

#[test]
fn a_request_of_http_goes_the_way_of_any_other() {
    let http = RpcHeader {
        flags: request().flags | flags::HTTP,
        ..request()
    };
    let tables = tables(Affinity::None);
    Case::sent("HTTP", tables, http, 1, &[Counter::RouteWarm]).check();
}

#[test]
fn the_keys_of_the_epoch_before_are_valid() {
    let mut tables = tables(Affinity::None);
    let header = with_cookie(&tables, 2);
    tables.config.as_mut().unwrap().key_epoch = 2;
    Case::sent("one epoch on", tables, header, 2, &[Counter::RouteCookie]).check();
}

#[test]
fn a_slot_goes_to_its_owner_in_the_live_generation() {
    let on_slot = |slot| RpcHeader {
        flags: request().flags | flags::HAS_SLOT,
        slot: SlotId(slot),
        ..request()
    };
    let mut tables = tables(Affinity::Shard);
    tables.set_slot(SlotId(0), WorkerId(1));
    tables.set_slot(SlotId(16_383), WorkerId(2));
    tables.config.as_mut().unwrap().generation = 1;
    tables.set_slot(SlotId(0), WorkerId(2));
    let mut before = tables.clone();
    before.config.as_mut().unwrap().generation = 2;
    let mut draining = before.clone();
    draining.add_worker(1, WorkerState::Draining);
    let shard = [Counter::RouteShard];
    check_all([
        Case::sent("generation 1", tables.clone(), on_slot(0), 2, &shard),
        Case::sent("generation 2", before.clone(), on_slot(0), 1, &shard),
        Case::sent("last slot", before, on_slot(16_383), 2, &shard),
        Case::sent("draining owner", draining, on_slot(0), 1, &shard),
        Case::sent("no slot given", tables, request(), 1, &[Counter::RouteWarm]),
    ]);
}

#[test]
fn warm_takes_the_less_loaded_that_has_room() {
    let with = |load1: (u32, u32), load2: (u32, u32)| {
        let mut tables = tables(Affinity::None);
        warm_on(&mut tables, Affinity::None, &[1, 2]);
        tables.set_load(1, load1.0, load1.1);
        tables.set_load(2, load2.0, load2.1);
        tables
    };
    let mut draining = with((0, 10), (5, 10));
    draining.add_worker(1, WorkerState::Draining);
    let ping = RpcHeader {
        kind: Kind::Ping,
        ..request()
    };
    let warm = [Counter::RouteWarm];
    check_all([
        Case::sent("first is idle", with((3, 10), (4, 10)), request(), 1, &warm),
        Case::sent(
            "second is idle",
            with((4, 10), (3, 10)),
            request(),
            2,
            &warm,
        ),
        Case::sent("first is full", with((3, 3), (4, 10)), request(), 2, &warm),
        Case::sent("first is draining", draining, request(), 2, &warm),
        Case::sent("a ping", with((3, 10), (4, 10)), ping, 1, &warm),
        Case::sent(
            "both are full",
            with((3, 3), (4, 4)),
            request(),
            2,
            &[Counter::WarmFull, Counter::RouteHome],
        ),
    ]);
}

#[test]
fn home_probes_up_to_its_limit() {
    let cold = || {
        let mut tables = tables(Affinity::None);
        warm_on(&mut tables, Affinity::None, &[]);
        tables
    };
    let mut last_probe = cold();
    let mut probes = [WorkerId::NONE; HOME_PROBES as usize];
    probes[HOME_PROBES as usize - 1] = WorkerId(1);
    last_probe.set_home(FUNCTION, &probes);
    let probed = [Counter::HomeProbed, Counter::RouteHome];
    check_all([
        Case::sent("at once", cold(), request(), 2, &[Counter::RouteHome]),
        Case::sent("last probe", last_probe, request(), 1, &probed),
    ]);
}

#[test]
fn forwarding_keeps_options_and_padding() {
    let frame = Frame {
        options: vec![1; 40],
        ..Frame::rpc(request(), b"payload")
    };
    let mut case = Case::sent(
        "options",
        tables(Affinity::None),
        request(),
        1,
        &[Counter::RouteWarm],
    );
    case.frame = frame.bytes();
    case.frame.extend_from_slice(&[0xee; 11]);
    case.expect.frame = forwarded(&case.frame, &case.tables.workers[&WorkerId(1)]);
    case.check();
}

#[test]
fn a_worker_behind_another_port_is_redirected_to() {
    // The test's own thread gets a network of its own; it goes when the thread ends.
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    let made = Command::new("ip")
        .args(["link", "add", "wpa", "type", "veth", "peer", "name", "wpb"])
        .status()
        .unwrap();
    assert!(made.success(), "ip link add: {made}");
    let port = if_nametoindex("wpa").unwrap();
    let mut tables = tables(Affinity::None);
    tables.ports.insert(port);
    let mut same_port = tables.clone();
    for worker in tables.workers.values_mut() {
        worker.ifindex = port;
    }
    for worker in same_port.workers.values_mut() {
        // BPF_PROG_TEST_RUN's frames come in by `lo`.
        worker.ifindex = 1;
    }
    check_all([
        Case::sent("another port", tables, request(), 1, &[Counter::RouteWarm]),
        Case::sent(
            "the same port",
            same_port,
            request(),
            1,
            &[Counter::RouteWarm],
        ),
    ]);
}
