//! SIGKILL under load.

use tests::load::Plan;

use crate::bed::{load, machine, platform, start_load, warm_hello};

const REQUESTS: u64 = 2_000;
/// Requests that a worker holds at a time.
const HELD_MAX: u64 = 64;

fn stream(cluster: &tests::cluster::Cluster) -> Plan {
    Plan::Paced {
        function: "hello".to_owned(),
        target: cluster.vip(),
        per_second: 1_000,
        requests: REQUESTS,
    }
}

#[test]
fn the_others_take_a_killed_workers_traffic() {
    let _machine = machine();
    let mut cluster = platform(&["hello"]);
    warm_hello(&cluster);
    let dead = cluster
        .worker_states()
        .unwrap()
        .into_iter()
        .find(|it| it.name == "w1")
        .unwrap()
        .id;
    let mut running = start_load(&cluster, &stream(&cluster));
    running.wait_done(REQUESTS / 4, &mut |_done| ()).unwrap();
    cluster.kill_worker(1).unwrap();
    cluster.wait_worker(1, "down").unwrap();
    let summary = running.finish(&mut |_done| ()).unwrap();
    assert_eq!(summary.sent(), REQUESTS);
    // What the worker had acknowledged, because it took it longer than a moment, may have run, and is not run again.
    let failures = summary.failures();
    let of_unknown_outcome = |words: &&String| words.starts_with("outcome_unknown: ");
    assert!(
        failures.keys().all(|it| of_unknown_outcome(&it)),
        "{failures:?}"
    );
    let unknown = failures.values().sum::<u64>();
    assert!(unknown <= HELD_MAX, "{failures:?}");
    assert_eq!(summary.answered() + unknown, REQUESTS);
    let after = load(&cluster, &stream(&cluster));
    assert_eq!(after.answered(), REQUESTS, "{:?}", after.failures());
    assert!(
        !after.series[0].workers.contains_key(&dead),
        "a dead worker answered"
    );
    cluster.start_worker(1).unwrap();
    assert_eq!(load(&cluster, &stream(&cluster)).answered(), REQUESTS);
}

#[test]
fn no_request_is_lost_while_the_control_plane_is_killed_and_restarted() {
    let _machine = machine();
    let mut cluster = platform(&["hello"]);
    warm_hello(&cluster);
    let before = cluster.status().unwrap();
    let mut running = start_load(&cluster, &stream(&cluster));
    running.wait_done(REQUESTS / 4, &mut |_done| ()).unwrap();
    cluster.kill_balancer().unwrap();
    running.wait_done(REQUESTS / 2, &mut |_done| ()).unwrap();
    cluster.start_balancer().unwrap();
    let summary = running.finish(&mut |_done| ()).unwrap();
    assert_eq!(summary.answered(), REQUESTS, "{:?}", summary.failures());
    let after = cluster.status().unwrap();
    assert!(after.adopted);
    assert_eq!(
        after.program_id, before.program_id,
        "the program was loaded anew"
    );
    for index in 0..3 {
        cluster.wait_worker(index, "up").unwrap();
    }
    let counters = cluster.counters().unwrap();
    assert_eq!(counters.packets(), counters.outcomes());
}
