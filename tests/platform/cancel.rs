//! A caller that hangs up at the gateway: what runs for it ends, by the kernel's word, and what is parked for it leaves.

use std::{fs, path::Path, process::Child, time::Duration};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tests::{cluster::Cluster, wait};

use crate::bed::{machine, metric, platform};

const PATIENCE: Duration = Duration::from_secs(20);
/// What the handler calls its process, so that the host finds it; the kernel keeps 15 bytes.
const COMM: &str = "wp-test-stays";

/// A function that stays a minute, running or parked.
const HANDLER: &str = r#"
import ctypes
import time
import warmpath

def f(event):
    if event["how"] == "park":
        return warmpath.wait(until=60)
    # PR_SET_NAME of linux/prctl.h
    ctypes.CDLL(None).prctl(15, b"wp-test-stays", 0, 0, 0)
    time.sleep(60)
    warmpath.db.put("{stays}:finished", "")
"#;

fn deploy(cluster: &Cluster) {
    let root = TempDir::new().unwrap();
    let dir = root.path().join("stays");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("f.py"), HANDLER).unwrap();
    let manifest = "name = \"stays\"\ntimeout_ms = 90000\n";
    fs::write(dir.join("warmpath.toml"), manifest).unwrap();
    cluster.deploy(&dir).unwrap();
}

/// A client that waits for the answer.
fn call(cluster: &Cluster, how: &str) -> Child {
    let url = format!("{}/run/stays", cluster.gateway_url());
    let body = format!("{{\"how\": \"{how}\"}}");
    let client = &cluster.topology.client.netns;
    let mut curl = client.command("curl");
    curl.args([
        "-s",
        "-m",
        "80",
        "-H",
        "X-Warmpath-Budget-Ms: 80000",
        "-d",
        &body,
        &url,
    ]);
    curl.spawn().unwrap()
}

fn hang_up(mut client: Child) {
    assert!(client.try_wait().unwrap().is_none(), "it was answered");
    client.kill().unwrap();
    client.wait().unwrap();
}

/// The handler's process, as the host sees it.
fn handlers() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let is_handlers = |path: &Path| {
        let comm = fs::read_to_string(path.join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == COMM)
    };
    let found = processes.filter(|entry| is_handlers(&entry.path()));
    found
        .map(|entry| entry.file_name().display().to_string())
        .collect()
}

/// What the workers counted as given up, in all.
fn cancelled(cluster: &Cluster, place: &str) -> u64 {
    metric(
        cluster,
        &format!("worker_cancelled_total{{while=\"{place}\"}}"),
    )
}

fn parked(cluster: &Cluster) -> Result<u64> {
    let mut parked = 0;
    for socket in cluster.worker_sockets().split(',') {
        let report = cluster.cli(&["worker", "parked", "--worker", socket, "--json"])?;
        parked += report["parked"].as_u64().context("no count")?;
    }
    Ok(parked)
}

#[test]
fn what_runs_or_waits_for_a_client_that_hangs_up_ends() {
    let _machine = machine();
    let cluster = platform(&[]);
    deploy(&cluster);

    assert_eq!(handlers(), Vec::<String>::new(), "somebody else's");
    let client = call(&cluster, "run");
    wait::until("the handler to run", PATIENCE, || {
        Ok((handlers().len() == 1).then_some(()))
    })
    .unwrap();
    assert_eq!(cancelled(&cluster, "running"), 0);
    hang_up(client);
    wait::until("the handler's process to end", PATIENCE, || {
        Ok(handlers().is_empty().then_some(()))
    })
    .unwrap();
    assert_eq!(cancelled(&cluster, "running"), 1);

    let client = call(&cluster, "park");
    wait::until("the request to be parked", PATIENCE, || {
        Ok((parked(&cluster)? == 1).then_some(()))
    })
    .unwrap();
    hang_up(client);
    wait::until("it to leave the car park", PATIENCE, || {
        Ok((parked(&cluster)? == 0).then_some(()))
    })
    .unwrap();
    assert_eq!(cancelled(&cluster, "parked"), 1);
    assert_eq!(cancelled(&cluster, "running"), 1);
    cluster.stop().unwrap();
}
