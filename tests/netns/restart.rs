//! The control plane goes and comes back; packets do not notice.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::{topology::Layout, wait};

use crate::{
    bed::{Bed, PATIENCE},
    client::Load,
};

fn mixed_load(bed: &Bed) -> Load {
    Load::start(bed.client(), |client, number| match number % 3 {
        0 => client.call("echo"),
        1 => client.call_session("talk", number % 100),
        _ => client.call_key("store", &number.to_string()),
    })
}

fn more_packets(bed: &Bed, count: u64) {
    let before = bed.counter("packets", "packets");
    wait::until("more packets", PATIENCE, || {
        Ok((bed.counter("packets", "packets") > before + count).then_some(()))
    })
    .unwrap();
}

#[test]
fn killed_and_started_again_under_load_it_loses_nothing() {
    let mut bed = Bed::new(Layout::OneArm, 3);
    let echoes = bed.echoes();
    let before = bed.status();
    let ids: Vec<u16> = bed
        .worker_statuses()
        .iter()
        .map(|worker| worker.id)
        .collect();
    let load = mixed_load(&bed);
    more_packets(&bed, 300);

    bed.control.kill().unwrap();
    more_packets(&bed, 300);
    let started = Instant::now();
    bed.restart_control();
    let ready = started.elapsed();
    bed.wait_settled(3);
    // Longer than the grace: whoever had not come back would be down by then.
    wait::until("the grace to be over", PATIENCE, || {
        Ok((bed.status().uptime_ms > 1_500).then_some(()))
    })
    .unwrap();
    more_packets(&bed, 300);
    let tally = load.stop();
    println!("answering again after {ready:?}; {tally:?}");
    assert_eq!(
        (tally.lost, tally.refused),
        (0, 0),
        "{tally:?}\n{}",
        bed.diagnosis()
    );

    let after = bed.status();
    assert!(after.adopted);
    assert_eq!(
        after.program_id, before.program_id,
        "the same program runs on"
    );
    assert_eq!(after.workers_up, 3);
    assert!(after.slots_version >= before.slots_version);
    let ids_after: Vec<u16> = bed
        .worker_statuses()
        .iter()
        .map(|worker| worker.id)
        .collect();
    assert_eq!(ids, ids_after);
    drop(echoes);
}

#[test]
fn stopped_cleanly_the_data_plane_goes_on() {
    let mut bed = Bed::new(Layout::OneArm, 2);
    let _echoes = bed.echoes();
    let load = mixed_load(&bed);
    bed.control.signal(Signal::SIGTERM).unwrap();
    assert!(bed.control.wait_end(PATIENCE).unwrap().success());
    more_packets(&bed, 500);
    let tally = load.stop();
    assert_eq!(
        (tally.lost, tally.refused),
        (0, 0),
        "{tally:?}\n{}",
        bed.diagnosis()
    );
    assert!(!bed.topology.run.dir().join("balancer.sock").exists());
}

#[test]
fn a_worker_that_died_meanwhile_is_down_when_the_grace_is_over() {
    let mut bed = Bed::new(Layout::OneArm, 2);
    let mut echoes = bed.echoes();
    bed.control.kill().unwrap();
    echoes[0].die();
    let started = Instant::now();
    bed.restart_control();
    bed.wait_settled(1);
    assert!(
        started.elapsed() >= Duration::from_millis(900),
        "it had its grace"
    );
    let client = bed.client();
    for _ in 0..50 {
        assert_eq!(client.call("echo").unwrap().worker, "w1");
    }
}

#[test]
fn a_second_control_plane_is_refused_while_the_first_runs() {
    let mut bed = Bed::new(Layout::OneArm, 1);
    let config = bed.topology.run.dir().join("balancer.toml");
    let mut second = tests::process::Process::start(
        &bed.topology.run,
        &tests::process::Spec {
            name: "second",
            netns: &bed.topology.balancer.netns,
            program: std::path::Path::new(env!("CARGO_BIN_EXE_control-plane")),
            args: &[config.to_str().unwrap()],
            piped: false,
        },
    )
    .unwrap();
    assert!(!second.wait_end(PATIENCE).unwrap().success());
    assert!(
        second.log_tail().contains("another control plane"),
        "{}",
        second.log_tail()
    );
    bed.control.check().unwrap();
}
