//! Two balancers of one VIP, as behind ECMP: what one has promised a client the other keeps.

use ebpf_common::maps::Class;
use tests::{
    cluster::{Cluster, Counters, Options},
    load::Plan,
    wait,
};

use crate::bed::{PATIENCE, examples, machine, metric, start_load, warmpath};

const SESSIONS: u64 = 200;
const ROUNDS: u32 = 20;

fn two_balancers() -> Cluster {
    let options = Options {
        second_balancer: true,
        ..Options::new(warmpath())
    };
    let cluster = Cluster::start(&options).expect("the platform starts");
    cluster
        .deploy(&examples().join("session-counter"))
        .expect("deploys");
    wait::until("the second balancer to know all", PATIENCE, || {
        let status = cluster.second_status()?;
        let is_settled = status.workers_up == 3 && status.writes_pending == 0;
        // Two names of the function: its version and `latest`.
        Ok((is_settled && status.functions >= cluster.status()?.functions).then_some(()))
    })
    .unwrap();
    cluster
}

fn routed(counters: &Counters, label: &str) -> u64 {
    counters.get(Class::Route, label)
}

#[test]
fn sessions_survive_a_change_of_the_balancer_by_their_cookies_alone() {
    let _machine = machine();
    let cluster = two_balancers();
    let plan = Plan::Sessions {
        function: "session-counter".to_owned(),
        target: cluster.vip(),
        sessions: SESSIONS,
        rounds: ROUNDS,
        in_flight: 8,
        fresh: false,
    };
    let mut running = start_load(&cluster, &plan);
    let half = plan.requests() / 2;
    running.wait_done(half, &mut |_done| ()).unwrap();
    cluster.route_to_second_balancer().unwrap();
    let summary = running.finish(&mut |_done| ()).unwrap();

    let met = summary.sessions.unwrap();
    assert_eq!(summary.failures(), Default::default());
    assert_eq!((met.sessions, met.requests), (SESSIONS, plan.requests()));
    assert_eq!(met.sticky, plan.requests(), "the same worker and instance");
    assert_eq!(met.counted, plan.requests(), "with the memory of before");
    let (first, second) = (
        cluster.counters().unwrap(),
        cluster.second_counters().unwrap(),
    );
    let by_second = routed(&second, "cookie");
    assert!(by_second > 0 && by_second <= half, "{second:?}");
    for rule in ["session", "warm", "home", "shard"] {
        assert_eq!(routed(&second, rule), 0, "{rule}: {second:?}");
    }
    assert_eq!(second.get(Class::Detail, "cookie_forged"), 0);
    let by_first = ["cookie", "session", "warm", "home"].map(|rule| routed(&first, rule));
    assert!(by_first.iter().sum::<u64>() >= plan.requests() - by_second);
}

#[test]
fn both_balancers_know_each_worker_by_the_same_id_and_its_load() {
    let _machine = machine();
    let cluster = two_balancers();
    let ids = |workers: Vec<balancer_userspace::api::types::WorkerStatus>| {
        let ids = workers.into_iter().map(|worker| (worker.name, worker.id));
        ids.collect::<Vec<_>>()
    };
    let seen = ids(cluster.worker_states().unwrap());
    let own = ["w0", "w1", "w2"].map(str::to_owned).into_iter();
    assert_eq!(seen, own.zip([100, 107, 114]).collect::<Vec<_>>());
    assert_eq!(ids(cluster.second_worker_states().unwrap()), seen);
    let (first, second) = (cluster.status().unwrap(), cluster.second_status().unwrap());
    assert!(first.keys_shared && second.keys_shared);
    assert_eq!(first.key_epoch, second.key_epoch);
    assert_eq!(metric(&cluster, "worker_control_planes_disagree"), 0);
    wait::until("LOAD packets at the second balancer", PATIENCE, || {
        let taken = cluster.second_counters()?.sum(Class::Consume);
        Ok((taken > 10).then_some(()))
    })
    .unwrap();
}
