//! Two balancers of one VIP, as behind ECMP: what one has promised a client the other keeps.

use std::time::{SystemTime, UNIX_EPOCH};

use balancer_userspace::api::types::WorkerStatus;
use ebpf_common::maps::Class;
use tests::{
    cluster::{Cluster, Counters, Options, SecondBalancer},
    load::{LoadProcess, Plan},
    topology::Host,
    wait,
};

use crate::bed::{PATIENCE, examples, machine, metric, start_load, warmpath};

const SESSIONS: u64 = 200;
const ROUNDS: u32 = 20;
/// As `[keys] rotate_s`: one epoch without end.
const NEVER: u32 = 0;
/// The shortest that there may be: its end is waited for.
const SHORT: u32 = 10;

fn two_balancers(rotate_s: u32) -> Cluster {
    let options = Options {
        second_balancer: Some(SecondBalancer { rotate_s }),
        ..Options::new(warmpath())
    };
    let cluster = Cluster::start(&options).expect("the platform starts");
    cluster
        .deploy(&examples().join("session-counter"))
        .expect("deploys");
    wait::until("the second balancer to know all", PATIENCE, || {
        let status = cluster.second_control_plane().status()?;
        let is_settled = status.workers_up == 3 && status.writes_pending == 0;
        // Two names of the function: its version and `latest`.
        Ok((is_settled && status.functions >= cluster.status()?.functions).then_some(()))
    })
    .unwrap();
    cluster
}

/// Requests of [`SESSIONS`] sessions.
fn sessions(cluster: &Cluster, rounds: u32, in_flight: usize) -> Plan {
    Plan::Sessions {
        function: "session-counter".to_owned(),
        target: cluster.vip(),
        sessions: SESSIONS,
        rounds,
        in_flight,
        fresh: false,
    }
}

/// Sees that every request of `plan` was answered where the session's first one was, with the memory of that.
fn finish(running: LoadProcess, plan: &Plan) {
    let summary = running.finish(&mut |_done| ()).unwrap();
    let met = summary.sessions.unwrap();
    assert_eq!(summary.failures(), Default::default());
    assert_eq!((met.sessions, met.requests), (SESSIONS, plan.requests()));
    assert_eq!(met.sticky, plan.requests(), "the same worker and instance");
    assert_eq!(met.counted, plan.requests(), "with the memory of before");
}

fn routed(counters: &Counters, label: &str) -> u64 {
    counters.get(Class::Route, label)
}

/// Sees that the second balancer has sent what came to it by cookies and nothing else; returns how much.
fn routed_by_cookies_alone(cluster: &Cluster) -> u64 {
    let second = cluster.second_control_plane().counters().unwrap();
    for rule in ["session", "warm", "home", "shard"] {
        assert_eq!(routed(&second, rule), 0, "{rule}: {second:?}");
    }
    for detail in ["cookie_forged", "cookie_stale"] {
        assert_eq!(second.get(Class::Detail, detail), 0, "{detail}");
    }
    routed(&second, "cookie")
}

#[test]
fn sessions_survive_a_change_of_the_balancer_by_their_cookies_alone() {
    let _machine = machine();
    let cluster = two_balancers(NEVER);
    let plan = sessions(&cluster, ROUNDS, 8);
    let mut running = start_load(&cluster, &plan);
    let half = plan.requests() / 2;
    running.wait_done(half, &mut |_done| ()).unwrap();
    cluster.route_by(&cluster.topology.gateway).unwrap();
    finish(running, &plan);
    let by_second = routed_by_cookies_alone(&cluster);
    assert!(by_second > 0 && by_second <= half, "{by_second}");
    let first = cluster.counters().unwrap();
    let by_first = ["cookie", "session", "warm", "home"].map(|rule| routed(&first, rule));
    assert!(by_first.iter().sum::<u64>() >= plan.requests() - by_second);
}

/// The epoch of the keys at each of the two.
fn epochs(cluster: &Cluster) -> [u32; 2] {
    let second = cluster.second_control_plane();
    [cluster.status(), second.status()].map(|status| status.unwrap().key_epoch)
}

#[test]
fn sessions_survive_new_keys_and_a_change_of_the_balancer_after_them() {
    let _machine = machine();
    let cluster = two_balancers(SHORT);
    // One session at a time, and from shortly before the end of the epoch: the load lasts longer than that.
    let plan = sessions(&cluster, 10 * ROUNDS, 1);
    wait::until("the epoch's last second", PATIENCE, || {
        let second = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok((second % u64::from(SHORT) == u64::from(SHORT) - 1).then_some(()))
    })
    .unwrap();
    let before = epochs(&cluster);
    let mut running = start_load(&cluster, &plan);
    running.wait_done(SESSIONS, &mut |_done| ()).unwrap();
    wait::until("new keys at both balancers", PATIENCE, || {
        let now = epochs(&cluster);
        Ok((now[0] == now[1] && now != before).then_some(()))
    })
    .unwrap();
    cluster.route_by(&cluster.topology.gateway).unwrap();
    finish(running, &plan);
    assert!(routed_by_cookies_alone(&cluster) > 0);
}

/// Requests of a new client by the balancer on `host`.
fn stay_by(cluster: &Cluster, host: &Host) {
    cluster.route_by(host).unwrap();
    let plan = sessions(cluster, ROUNDS, 8);
    finish(start_load(cluster, &plan), &plan);
}

/// What a balancer has made of cookies: opened, and of an epoch that is not its own.
fn cookies(counters: &Counters) -> (u64, u64) {
    let stale = counters.get(Class::Detail, "cookie_stale");
    (routed(counters, "cookie"), stale)
}

#[test]
fn workers_go_with_the_control_plane_that_lives() {
    let _machine = machine();
    let mut cluster = two_balancers(SHORT);
    cluster.kill_balancer().unwrap();
    let workers = cluster.topology.workers.len() as u64;
    let wait_for = |cluster: &Cluster, disagree: u64| {
        wait::until("the workers to see how the keys are", PATIENCE, || {
            let seen = metric(cluster, "worker_control_planes_disagree");
            Ok((seen == disagree).then_some(()))
        })
        .unwrap();
    };
    // Two epochs later none of the keys that the dead one's program has are in use.
    wait_for(&cluster, workers);
    stay_by(&cluster, &cluster.topology.gateway);
    let (opened, stale) = cookies(&cluster.second_control_plane().counters().unwrap());
    assert!(opened > 0 && stale == 0, "{opened} {stale}");
    // There cookies are no help; its own table of sessions is.
    stay_by(&cluster, &cluster.topology.balancer);

    cluster.start_balancer().unwrap();
    wait_for(&cluster, 0);
    let before = cluster.counters().unwrap();
    assert!(routed(&before, "session") > 0, "{before:?}");
    stay_by(&cluster, &cluster.topology.balancer);
    let after = cluster.counters().unwrap();
    assert!(routed(&after, "cookie") > routed(&before, "cookie"));
    assert_eq!(cookies(&after).1, cookies(&before).1, "stale");
}

#[test]
fn both_balancers_know_each_worker_by_the_same_id_and_its_load() {
    let _machine = machine();
    let cluster = two_balancers(NEVER);
    let ids = |workers: Vec<WorkerStatus>| {
        let ids = workers.into_iter().map(|worker| (worker.name, worker.id));
        ids.collect::<Vec<_>>()
    };
    let second = cluster.second_control_plane();
    let seen = ids(cluster.worker_states().unwrap());
    let own = ["w0", "w1", "w2"].map(str::to_owned).into_iter();
    assert_eq!(seen, own.zip([100, 107, 114]).collect::<Vec<_>>());
    assert_eq!(ids(second.worker_states().unwrap()), seen);
    let (ours, theirs) = (cluster.status().unwrap(), second.status().unwrap());
    assert!(ours.keys_shared && theirs.keys_shared);
    assert_eq!(ours.key_epoch, theirs.key_epoch);
    assert_eq!(metric(&cluster, "worker_control_planes_disagree"), 0);
    wait::until("LOAD packets at the second balancer", PATIENCE, || {
        let taken = second.counters()?.sum(Class::Consume);
        Ok((taken > 10).then_some(()))
    })
    .unwrap();
}
