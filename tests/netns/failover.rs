//! A worker dies: how soon the kernel knows, and what becomes of its traffic.

use std::{
    thread,
    time::{Duration, Instant},
};

use ebpf_common::maps::WorkerState;
use tests::{topology::Layout, wait};

use crate::{
    bed::{Bed, PATIENCE},
    client::Load,
};

/// Generous: it takes about a millisecond, on a machine that may be busy.
const MOVED_WITHIN: Duration = Duration::from_millis(100);

#[test]
fn a_closed_connection_moves_all_traffic_at_once() {
    let bed = Bed::new(Layout::OneArm, 3);
    let mut echoes = bed.echoes();
    let id = bed.worker_id("w0");
    let rows = bed.rows();
    let load = Load::start(bed.client(), |client, number| {
        if number % 2 == 0 {
            client.call("echo")
        } else {
            client.call_session("talk", number % 64)
        }
    });
    wait::until("load", PATIENCE, || {
        Ok((bed.counter("route", "warm") > 100).then_some(()))
    })
    .unwrap();

    // Not `wait::until`, which would measure its own pause.
    let noticed = thread::spawn(move || {
        let given_up = Instant::now() + PATIENCE;
        while rows(id).state() != WorkerState::Down && Instant::now() < given_up {
            thread::yield_now();
        }
        Instant::now()
    });
    let killed = Instant::now();
    echoes[0].die();
    let dead_in_kernel = noticed.join().unwrap() - killed;
    wait::until("the tables to be written", PATIENCE, || {
        Ok((bed.status().writes_pending == 0).then_some(()))
    })
    .unwrap();
    let before = bed.counter("packets", "packets");
    wait::until("more load", PATIENCE, || {
        Ok((bed.counter("packets", "packets") > before + 500).then_some(()))
    })
    .unwrap();
    let tally = load.stop();
    println!("down in the kernel {dead_in_kernel:?} after the connection was closed; {tally:?}");
    assert!(dead_in_kernel < MOVED_WITHIN, "{dead_in_kernel:?}");
    assert_eq!(tally.refused, 0);
    // One request may have been on its way to the dead worker: this client has one at a time.
    assert!(tally.lost <= 1, "{tally:?}\n{}", bed.diagnosis());
    let client = bed.client();
    for session in 0..64 {
        assert_ne!(client.call_session("talk", session).unwrap().worker, "w0");
    }
    // Its shard has no other owner: refused by name, not sent elsewhere.
    let key = (0..)
        .map(|n| n.to_string())
        .find(|key| ebpf_common::hash::slot_of_key(key.as_bytes()).0 < 5_461);
    let answer = client.call_key("store", &key.unwrap()).unwrap();
    assert_eq!(
        answer.header.status,
        ebpf_common::wire::Status::NoShardOwner as u16
    );
}

#[test]
fn a_worker_that_comes_back_has_its_id_and_its_slots_again() {
    let bed = Bed::new(Layout::OneArm, 2);
    let mut echoes = bed.echoes();
    let id = bed.worker_id("w0");
    let version = bed.status().slots_version;
    echoes[0].die();
    bed.wait_settled(1);
    echoes[0] = crate::echo::Echo::start(
        &bed.topology.workers[0],
        bed.membership_addr(),
        "0-8191",
        None,
    );
    bed.wait_settled(2);
    assert_eq!(bed.worker_id("w0"), id);
    assert!(bed.status().slots_version > version);
    let key = (0..)
        .map(|n| n.to_string())
        .find(|key| ebpf_common::hash::slot_of_key(key.as_bytes()).0 < 8_192);
    assert_eq!(
        bed.client()
            .call_key("store", &key.unwrap())
            .unwrap()
            .worker,
        "w0"
    );
}

#[test]
fn silence_counts_as_death_when_the_lease_is_over() {
    let bed = Bed::new(Layout::OneArm, 2);
    let _echoes = bed.echoes();
    let w0 = &bed.topology.workers[0];
    // The wire is cut: no FIN, no RST.
    let cut = Instant::now();
    bed.topology
        .switch
        .ip(&format!("link set {} down", w0.nic().port))
        .unwrap();
    let rows = bed.rows();
    let id = bed.worker_id("w0");
    wait::until("the row to say down", PATIENCE, || {
        Ok((rows(id).state() == WorkerState::Down).then_some(()))
    })
    .unwrap();
    println!(
        "a cut wire was noticed after {:?}; the lease is 2 s",
        cut.elapsed()
    );
    let client = bed.client();
    for _ in 0..50 {
        assert_eq!(client.call("echo").unwrap().worker, "w1");
    }
    bed.topology
        .switch
        .ip(&format!("link set {} up", w0.nic().port))
        .unwrap();
    bed.wait_settled(2);
}
