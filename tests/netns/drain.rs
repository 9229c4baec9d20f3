//! Draining: existing sessions stay, nothing new comes, nothing is lost.

use std::collections::BTreeSet;

use ebpf_common::maps::WorkerState;
use tests::{topology::Layout, wait};

use crate::{
    bed::{Bed, PATIENCE},
    client::Load,
};

#[test]
fn a_drained_worker_keeps_its_sessions_and_gets_no_new_ones() {
    let bed = Bed::new(Layout::OneArm, 3);
    let _echoes = bed.echoes();
    let client = bed.client();
    let home: Vec<String> = (0..60)
        .map(|session| client.call_session("talk", session).unwrap().worker)
        .collect();
    let homes: BTreeSet<_> = home.iter().collect();
    assert_eq!(homes.len(), 3, "60 sessions are on all three workers");

    let load = Load::start(bed.client(), |client, _| client.call("echo"));
    let drained = bed.runtime.block_on(bed.admin().drain("w1")).unwrap();
    assert_eq!(drained.state, "draining");
    wait::until("the row to say draining", PATIENCE, || {
        Ok((bed.row_state("w1") == WorkerState::Draining).then_some(()))
    })
    .unwrap();
    bed.wait_settled(2);

    for (session, home) in (0..).zip(&home) {
        assert_eq!(client.call_session("talk", session).unwrap().worker, *home);
    }
    for session in 1_000..1_100 {
        assert_ne!(client.call_session("talk", session).unwrap().worker, "w1");
    }
    for _ in 0..100 {
        assert_ne!(client.call("echo").unwrap().worker, "w1");
    }
    bed.runtime.block_on(bed.admin().undrain("w1")).unwrap();
    bed.wait_settled(3);
    wait::until("w1 to get new work again", PATIENCE, || {
        Ok(client
            .call("echo")
            .filter(|answer| answer.worker == "w1")
            .map(|_| ()))
    })
    .unwrap();
    let tally = load.stop();
    assert_eq!(
        (tally.lost, tally.refused),
        (0, 0),
        "{tally:?}\n{}",
        bed.diagnosis()
    );
}

#[test]
fn a_worker_that_says_it_leaves_gets_nothing_new() {
    let bed = Bed::new(Layout::OneArm, 2);
    let echoes = bed.echoes();
    echoes[0].heartbeat.send_modify(|beat| beat.draining = true);
    bed.wait_settled(1);
    let client = bed.client();
    for _ in 0..100 {
        assert_eq!(client.call("echo").unwrap().worker, "w1");
    }
    let error = bed
        .runtime
        .block_on(bed.admin().drain("nobody"))
        .unwrap_err();
    assert!(error.to_string().contains("no worker `nobody`"), "{error}");
}

#[test]
fn a_worker_at_its_capacity_is_passed_over() {
    let bed = Bed::new(Layout::OneArm, 2);
    let echoes = bed.echoes();
    echoes[0]
        .heartbeat
        .send_modify(|beat| beat.in_flight = beat.capacity);
    wait::until("the load to be known", PATIENCE, || {
        let workers = bed.worker_statuses();
        Ok(workers
            .iter()
            .any(|worker| worker.in_flight == 16)
            .then_some(()))
    })
    .unwrap();
    let client = bed.client();
    for _ in 0..100 {
        assert_eq!(client.call("echo").unwrap().worker, "w1");
    }
}
