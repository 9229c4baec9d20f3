//! The network that connections to the control plane go by is parted, and the one that packets go by is not.

use balancer_userspace::api::types::WorkerStatus;
use tests::{
    cluster::{Cluster, MEMBERSHIP_PORT},
    load::Plan,
    wait,
};

use crate::bed::{PATIENCE, load, machine, platform, start_load, warm_hello};

/// No segment of a worker reaches the control plane, nor does the kernel tell either of them.
fn part(cluster: &Cluster) {
    nft(
        cluster,
        &format!(
            "table ip parted {{ chain input {{ type filter hook input priority 0; tcp dport {MEMBERSHIP_PORT} drop; }}; }}"
        ),
    );
}

fn heal(cluster: &Cluster) {
    nft(cluster, "delete table ip parted");
}

fn nft(cluster: &Cluster, rules: &str) {
    let balancer = &cluster.topology.balancer.netns;
    balancer.run("nft", &[rules]).unwrap();
}

fn wait_for(cluster: &Cluster, what: &str, is_so: impl Fn(&WorkerStatus) -> bool) {
    wait::until(what, PATIENCE, || {
        let workers = cluster.worker_states()?;
        Ok(workers.iter().all(&is_so).then_some(()))
    })
    .unwrap();
}

fn hello(cluster: &Cluster) -> Plan {
    Plan::Paced {
        function: "hello".to_owned(),
        target: cluster.vip(),
        per_second: 200,
        requests: 400,
    }
}

#[test]
fn workers_whose_packets_come_go_on_and_one_that_dies_meanwhile_is_found_dead() {
    let _machine = machine();
    let mut cluster = platform(&["hello"]);
    warm_hello(&cluster);
    let plan = hello(&cluster);
    let running = start_load(&cluster, &plan);
    part(&cluster);
    wait_for(&cluster, "all workers to be presumed alive", |worker| {
        worker.presumed && worker.state == "up"
    });
    let met = running.finish(&mut |_done| ()).unwrap();
    assert_eq!(met.failures(), Default::default(), "while it is noticed");
    assert_eq!(load(&cluster, &plan).answered(), 400);
    let workers = cluster.worker_states().unwrap();
    assert!(workers.iter().all(|worker| worker.presumed), "{workers:?}");

    heal(&cluster);
    wait_for(&cluster, "all workers to be members again", |worker| {
        !worker.presumed && worker.state == "up"
    });

    part(&cluster);
    wait_for(&cluster, "all workers to be presumed alive", |worker| {
        worker.presumed
    });
    // Its kernel closes the connection, and nobody hears of it.
    cluster.kill_worker(2).unwrap();
    wait_for(&cluster, "the dead one to be found", |worker| {
        (worker.name == "w2") != (worker.presumed && worker.state == "up")
    });
    assert_eq!(load(&cluster, &plan).answered(), 400, "by the other two");
}
