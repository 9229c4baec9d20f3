//! Deploying and calling.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use ebpf_common::maps::Class;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tests::wait;

use crate::bed::{machine, metric, platform, warmpath};

#[test]
fn a_deployed_function_answers_by_rpc_and_by_http() {
    let _machine = machine();
    let cluster = platform(&["hello"]);
    let reply = cluster.invoke("hello", r#"{"name":"Ada"}"#, &[]).unwrap();
    assert_eq!(reply["status"], "ok", "{reply}");
    let payload = reply["payload"].as_str().unwrap();
    let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
    assert_eq!(payload, json!({ "greeting": "Hello, Ada!" }));
    let url = format!("{}/run/hello", cluster.gateway_url());
    let client = &cluster.topology.client.netns;
    let body = client
        .run("curl", &["-s", "-d", r#"{"name":"Bob"}"#, &url])
        .unwrap();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, json!({ "greeting": "Hello, Bob!" }));
    cluster.stop().unwrap();
}

#[test]
fn a_cold_start_goes_home_and_the_next_request_to_the_warm_worker() {
    let _machine = machine();
    let cluster = platform(&["hello"]);
    let before = cluster.counters().unwrap();
    let first = cluster.invoke("hello", "{}", &[]).unwrap();
    let after = cluster.counters().unwrap();
    let routed = |counters: &tests::cluster::Counters, rule| counters.get(Class::Route, rule);
    assert_eq!(
        routed(&after, "home") - routed(&before, "home"),
        1,
        "{first}"
    );
    // What the worker has said is not yet what the kernel's row says.
    wait::until(
        "hello to be warm in the data plane",
        std::time::Duration::from_secs(5),
        || {
            let functions = cluster.functions()?;
            let is_warm = |function: &balancer_userspace::api::types::FunctionStatus| {
                function.qualified == "hello@latest" && !function.warm.is_empty()
            };
            Ok(functions.iter().any(is_warm).then_some(()))
        },
    )
    .unwrap();
    let second = cluster.invoke("hello", "{}", &[]).unwrap();
    let last = cluster.counters().unwrap();
    assert_eq!(
        routed(&last, "warm") - routed(&after, "warm"),
        1,
        "{second}"
    );
    assert_eq!(first["worker"], second["worker"]);
}

#[test]
fn a_function_that_was_asked_for_ahead_is_warm_on_each_worker_before_its_first_call() {
    let _machine = machine();
    let cluster = platform(&["hello"]);
    let sockets = cluster.worker_sockets();
    let prewarm = |function: &str| {
        cluster.cli(&[
            "fn", "prewarm", function, "--count", "2", "--worker", &sockets, "--json",
        ])
    };
    let warmed = prewarm("hello").unwrap();
    let warmed = warmed.as_array().unwrap();
    assert_eq!(warmed.len(), cluster.topology.workers.len());
    for report in warmed {
        assert_eq!(
            (&report["function"], &report["live"]),
            (&json!("hello@latest"), &json!(2)),
            "{report}"
        );
    }
    let started = 2 * warmed.len() as u64;
    assert_eq!(metric(&cluster, "worker_prewarmed_total"), started);
    let reply = cluster.invoke("hello", "{}", &[]).unwrap();
    assert_eq!(reply["status"], "ok", "{reply}");
    for path in ["zygote", "cold"] {
        let line = format!("worker_cold_starts_total{{path=\"{path}\"}}");
        assert_eq!(metric(&cluster, &line), 0, "the request waited for a start");
    }
    let unknown = prewarm("no-such-function").unwrap_err().to_string();
    assert!(unknown.contains("fn list"), "{unknown}");
    cluster.stop().unwrap();
}

#[test]
fn an_unknown_function_is_the_callers_fault_and_a_failing_one_the_functions() {
    let _machine = machine();
    let cluster = platform(&["failing"]);
    let unknown = cluster.invoke("no-such-function", "{}", &[]).unwrap();
    assert_eq!(
        (&unknown["status"], &unknown["fault"]),
        (&json!("unknown_function"), &json!("caller"))
    );
    let failing = cluster.invoke("failing", r#"{"fail":true}"#, &[]).unwrap();
    assert_eq!(
        (&failing["status"], &failing["fault"]),
        (&json!("exception"), &json!("function"))
    );
    let next = cluster.invoke("failing", r#"{"fail":false}"#, &[]).unwrap();
    assert_eq!(next["status"], "ok", "{next}");
}

#[test]
fn what_a_function_printed_is_told_by_request() {
    let _machine = machine();
    let cluster = platform(&["failing"]);
    let (netns, sockets) = (&cluster.topology.client.netns, cluster.worker_sockets());
    let warmpath = warmpath().display().to_string();
    let logs = |more: &[&str]| {
        let args = [&["fn", "logs", "failing", "--worker", &sockets], more].concat();
        netns.run(&warmpath, &args).unwrap()
    };
    let fail = || cluster.invoke("failing", r#"{"fail":true}"#, &[]).unwrap();
    let last = "err ValueError: this function always fails, on purpose";
    assert_eq!(fail()["status"], "exception");
    let printed = logs(&[]);
    println!("{printed}");
    assert!(printed.trim_end().ends_with(last), "{printed}");
    let (request, _) = printed.split_once(' ').unwrap();
    assert!(
        printed.lines().all(|line| line.starts_with(request)),
        "{printed}"
    );
    assert_eq!(logs(&["--request", request]), printed);
    assert_eq!(logs(&["--request", "0123456789abcdef"]), "");
    let objects = logs(&["--request", request, "--json"]);
    for line in objects.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&entry["request"], &entry["stream"]),
            (&json!(request), &json!("stderr"))
        );
    }

    let mut follower = netns
        .command("timeout")
        .args([
            "30", &warmpath, "fn", "logs", "failing", "-f", "--worker", &sockets,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || lines.next().expect("it goes on").unwrap();
    while !next().ends_with(last) {}
    assert_eq!(fail()["status"], "exception");
    let mut line = next();
    assert!(!line.starts_with(request), "{line}");
    while !line.ends_with(last) {
        line = next();
    }
    // `timeout` hands it on.
    let pid = Pid::from_raw(follower.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    follower.wait().unwrap();
}
