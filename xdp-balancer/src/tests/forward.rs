//! Forwarding: which bytes change, and by which interface the frame leaves.

use ebpf_common::{
    ids::WorkerId,
    maps::{Affinity, Counter, WorkerState},
};

use super::{counted, request, run, tables, warm_on};
use crate::{
    DropReason, Verdict,
    testing::frame::{Frame, forwarded},
};

#[test]
fn only_the_mac_addresses_change() {
    let mut tables = tables(Affinity::None);
    let worker = tables.add_worker(2, WorkerState::Up);
    warm_on(&mut tables, Affinity::None, &[2]);
    let frame = Frame::rpc(request(), b"payload").bytes();
    let (verdict, after, _) = run(&tables, frame.clone());
    assert_eq!(verdict, Verdict::Tx);
    assert_eq!(after, forwarded(&frame, &worker));
}

#[test]
fn a_worker_behind_another_interface_is_redirected_to() {
    let mut tables = tables(Affinity::None);
    let mut worker = tables.add_worker(2, WorkerState::Up);
    warm_on(&mut tables, Affinity::None, &[2]);
    worker.ifindex = 9;
    tables.workers.insert(WorkerId(2), worker);
    tables.ports.insert(9);
    let frame = Frame::rpc(request(), b"payload").bytes();
    let (verdict, after, counters) = run(&tables, frame.clone());
    assert_eq!(verdict, Verdict::Redirect { ifindex: 9 });
    assert_eq!(after, forwarded(&frame, &worker));
    assert_eq!(counters, counted(Counter::RouteWarm, &[]));
}

#[test]
fn a_worker_behind_the_interface_of_arrival_needs_no_port() {
    let mut tables = tables(Affinity::None);
    let mut worker = tables.add_worker(2, WorkerState::Up);
    warm_on(&mut tables, Affinity::None, &[2]);
    worker.ifindex = 1;
    tables.workers.insert(WorkerId(2), worker);
    let (verdict, _, _) = run(&tables, Frame::rpc(request(), b"").bytes());
    assert_eq!(verdict, Verdict::Tx);
}

#[test]
fn an_interface_that_is_no_port_drops_the_frame_untouched() {
    let mut tables = tables(Affinity::None);
    let mut worker = tables.add_worker(2, WorkerState::Up);
    warm_on(&mut tables, Affinity::None, &[2]);
    worker.ifindex = 9;
    tables.workers.insert(WorkerId(2), worker);
    let frame = Frame::rpc(request(), b"").bytes();
    let (verdict, after, counters) = run(&tables, frame.clone());
    assert_eq!(verdict, Verdict::Drop(DropReason::NoPort));
    assert_eq!(after, frame);
    assert_eq!(counters, counted(Counter::DropNoPort, &[]));
}
