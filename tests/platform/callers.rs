//! Who pays for calls that came through the gateway.

use std::{net::Ipv4Addr, time::Duration};

use tests::{
    cluster::{Cluster, Options},
    wait,
};
use warmpath_sdk::{
    Call, Client, ClientConfig,
    http::{CALLER, RequestHead},
};

use crate::{
    answer::Answer,
    bed::{examples, machine, metric, warmpath},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn start(trust_gateway: bool) -> Cluster {
    let options = Options {
        trust_gateway,
        ..Options::new(warmpath())
    };
    let cluster = Cluster::start(&options).unwrap();
    cluster.deploy(&examples().join("hello")).unwrap();
    cluster
}

/// Calls `hello` by HTTP, with these headers.
fn call(cluster: &Cluster, headers: &[&str]) {
    let url = format!("{}/run/hello", cluster.gateway_url());
    let mut args = vec!["-sf", "-d", "{}", &url];
    for header in headers {
        args.extend(["-H", header]);
    }
    cluster.topology.client.netns.run("curl", &args).unwrap();
}

/// Who paid for calls of `hello`, and for how many, by `warmpath fn cost`.
fn payers(cluster: &Cluster) -> Vec<(String, u64)> {
    let sockets = cluster.worker_sockets();
    let args = ["fn", "cost", "hello", "--worker", &sockets, "--json"];
    let report = cluster.cli(&args).unwrap();
    let lines = report["lines"].as_array().unwrap();
    let line = |line: &serde_json::Value| {
        let caller = line["caller"].as_str().unwrap().to_owned();
        (caller, line["sum"]["requests"].as_u64().unwrap())
    };
    lines.iter().map(line).collect()
}

fn named(cluster: &Cluster, word: &str) -> u64 {
    let line = format!("worker_callers_named_total{{word=\"{word}\"}}");
    metric(cluster, &line)
}

/// Calls `hello` from the client's host as a gateway would that `caller` has called.
fn forge(cluster: &Cluster, caller: &str) {
    let head = RequestHead {
        headers: vec![(CALLER.to_owned(), caller.to_owned())],
        ..RequestHead::of_call(0)
    };
    let call = Call::new("hello").http(&head, b"{}").unwrap();
    let vip = cluster.vip();
    let exchange = move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::connect(vip, ClientConfig::default()).unwrap();
            client.call(call).await.unwrap();
        });
    };
    let client = &cluster.topology.client.netns;
    client.enter(exchange).unwrap();
}

/// Has `hello` called later, and waits until it has been.
fn call_later(cluster: &Cluster, more: &[&str]) {
    let url = format!("{}/run/hello", cluster.gateway_url());
    let mut args = vec!["-H", "X-Warmpath-Async: true", "-d", "{}", &url];
    for header in more {
        args.extend(["-H", header]);
    }
    let kept = Answer::to(cluster, &args);
    assert_eq!(kept.code, 202, "{}", kept.body);
    let outcome = format!("{}{}", cluster.gateway_url(), kept.header("location"));
    wait::until("the call to be made", PATIENCE, || {
        Ok((Answer::to(cluster, &[&outcome]).code == 200).then_some(()))
    })
    .unwrap();
}

fn paid(by: Ipv4Addr, requests: u64) -> Vec<(String, u64)> {
    vec![(by.to_string(), requests)]
}

#[test]
fn the_client_of_a_gateway_that_is_believed_pays_whatever_it_claims() {
    let _machine = machine();
    let cluster = start(true);
    call(&cluster, &[]);
    call(&cluster, &["X-Warmpath-Caller: 192.0.2.66"]);
    // The client is no proxy that the gateway trusts.
    call(&cluster, &["X-Forwarded-For: 192.0.2.66"]);
    let client = cluster.topology.client.address();
    let printed = printed_cost(&cluster);
    println!("{printed}");
    assert_eq!(payers(&cluster), paid(client, 3), "{printed}");
    assert_eq!(
        (named(&cluster, "believed"), named(&cluster, "ignored")),
        (3, 0)
    );

    // Also when a worker makes the call, later.
    call_later(&cluster, &[]);
    call_later(&cluster, &["X-Warmpath-Caller: 192.0.2.66"]);
    assert_eq!(payers(&cluster), paid(client, 5));

    // Whoever speaks RPC can write what a gateway writes, and is none.
    forge(&cluster, "192.0.2.66");
    assert_eq!(payers(&cluster), paid(client, 6));
    assert_eq!(
        (named(&cluster, "believed"), named(&cluster, "ignored")),
        (5, 1)
    );
    cluster.stop().unwrap();
}

#[test]
fn a_gateway_that_nobody_was_told_of_pays_itself() {
    let _machine = machine();
    let cluster = start(false);
    call(&cluster, &[]);
    let gateway = cluster.topology.gateway.address();
    call_later(&cluster, &[]);
    assert_eq!(payers(&cluster), paid(gateway, 2));
    assert_eq!(
        (named(&cluster, "believed"), named(&cluster, "ignored")),
        (0, 2)
    );
    cluster.stop().unwrap();
}

fn printed_cost(cluster: &Cluster) -> String {
    let sockets = cluster.worker_sockets();
    let args = ["fn", "cost", "hello", "--worker", &sockets];
    let client = &cluster.topology.client.netns;
    let printed = client.run(&warmpath().display().to_string(), &args);
    printed.unwrap()
}
