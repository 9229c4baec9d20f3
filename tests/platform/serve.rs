//! Deploying and calling.

use ebpf_common::maps::Class;
use serde_json::json;
use tests::wait;

use crate::bed::{machine, platform};

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
    wait::until(
        "hello to be warm in the data plane",
        std::time::Duration::from_secs(5),
        || {
            let workers = cluster.worker_states()?;
            let warm = |worker: &balancer_userspace::api::types::WorkerStatus| {
                worker.warm.iter().any(|name| name == "hello@latest")
            };
            Ok(workers.iter().any(warm).then_some(()))
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
