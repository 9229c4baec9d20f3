//! What the tests of this floor share.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tests::{
    cluster::{Cluster, METRICS_PORT, Options},
    load::{LoadProcess, Plan, Summary},
};

/// The demo's binary, which is the load generator too.
pub(crate) const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// For whatever should take milliseconds, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

static MACHINE: Mutex<()> = Mutex::new(());

/// The machine, for one test at a time. A test that failed has cleaned up after itself all the same.
pub(crate) fn machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The `warmpath` binary: it lies beside the demo's.
pub(crate) fn warmpath() -> PathBuf {
    let path = Path::new(DEMO).with_file_name("warmpath");
    assert!(
        path.exists(),
        "{} is not built: run `cargo xtask test`",
        path.display()
    );
    path
}

/// The folder with the example functions.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// A platform with these examples deployed.
pub(crate) fn platform(functions: &[&str]) -> Cluster {
    let cluster = Cluster::start(&Options::new(warmpath())).expect("the platform starts");
    for function in functions {
        cluster.deploy(&examples().join(function)).expect("deploys");
    }
    cluster
}

pub(crate) fn start_load(cluster: &Cluster, plan: &Plan) -> LoadProcess {
    LoadProcess::start(&cluster.topology, Path::new(DEMO), plan).expect("the load starts")
}

pub(crate) fn load(cluster: &Cluster, plan: &Plan) -> Summary {
    start_load(cluster, plan)
        .finish(&mut |_done| ())
        .expect("the load ends")
}

/// Calls `hello` on each worker directly, so that each has it warm.
pub(crate) fn warm_hello(cluster: &Cluster) {
    for index in 0..cluster.topology.workers.len() {
        let plan = Plan::Closed {
            function: "hello".to_owned(),
            target: cluster.direct(index),
            requests: 5,
            in_flight: 1,
        };
        assert_eq!(load(cluster, &plan).answered(), 5, "worker {index}");
    }
}

/// The sum over the workers of the metric whose lines begin with `line`: its name and labels.
pub(crate) fn metric(cluster: &Cluster, line: &str) -> u64 {
    let of = |address: Ipv4Addr| {
        let url = format!("http://{address}:{METRICS_PORT}/metrics");
        let client = &cluster.topology.client.netns;
        let text = client.run("curl", &["-s", &url]).unwrap();
        let value = text
            .lines()
            .find_map(|it| it.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0)
    };
    let workers = cluster.topology.workers.iter();
    workers.map(|worker| of(worker.address())).sum()
}
