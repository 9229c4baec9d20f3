//! Calls that nobody waits for, through gateway and balancer.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tests::{cluster::Cluster, wait};

use crate::{
    answer::Answer,
    bed::{machine, metric, platform},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Has `function` called with `body`, and says where to ask what became of it.
fn defer(cluster: &Cluster, function: &str, body: &str) -> String {
    let url = format!("{}/run/{function}", cluster.gateway_url());
    let kept = Answer::to(cluster, &["-H", "X-Warmpath-Async: true", "-d", body, &url]);
    assert_eq!(kept.code, 202, "{}", kept.body);
    let path = kept.header("location");
    assert_eq!(kept.json()["state"], "pending");
    format!("{}{path}", cluster.gateway_url())
}

/// The answer about a call once it has ended.
fn ended(cluster: &Cluster, url: &str) -> Answer {
    let ended = || {
        let answer = Answer::to(cluster, &[url]);
        Ok((answer.code != 202).then_some(answer))
    };
    wait::until("the call to end", PATIENCE, ended).unwrap()
}

fn dead(cluster: &Cluster, more: &[&str]) -> Result<Value> {
    let args = [&["fn", "dead", "failing", "--json"], more].concat();
    cluster.cli(&args)
}

#[test]
fn a_call_that_nobody_waits_for_is_kept_made_and_asked_for_by_its_id() {
    let _machine = machine();
    let cluster = platform(&["hello", "failing"]);
    let urls: Vec<_> = (0..8)
        .map(|number| defer(&cluster, "hello", &format!("{{\"name\": \"{number}\"}}")))
        .collect();
    for (number, url) in urls.iter().enumerate() {
        let done = ended(&cluster, url);
        assert_eq!((done.code, done.header("x-warmpath-async")), (200, "done"));
        assert_eq!(done.json()["greeting"], format!("Hello, {number}!"));
    }
    let nobodys = format!("{}/async/00000000000000aa", cluster.gateway_url());
    assert_eq!(Answer::to(&cluster, &[&nobodys]).code, 404);

    let url = defer(&cluster, "failing", "{}");
    let failed = ended(&cluster, &url);
    assert_eq!(failed.code, 502);
    let told = failed.json();
    assert_eq!(
        (&told["state"], &told["attempts"]),
        (&json!("failed"), &json!(2)),
        "as its manifest says"
    );
    let listed = dead(&cluster, &[]).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    assert!(url.ends_with(id), "{listed}");
    assert_eq!(metric(&cluster, "worker_async_dead"), 1);
    assert_eq!(
        metric(&cluster, "worker_async_ended_total{state=\"done\"}"),
        8
    );

    let again = dead(&cluster, &["--retry", id]).unwrap();
    assert_eq!(again["state"], "pending");
    assert_eq!(ended(&cluster, &url).code, 502);
    assert_eq!(dead(&cluster, &[]).unwrap().as_array().unwrap().len(), 1);
    assert_eq!(
        metric(&cluster, "worker_async_attempts_total{outcome=\"failed\"}"),
        4
    );
    wait::until("nothing to be pending", PATIENCE, || {
        let left = [
            "worker_async_pending",
            "worker_async_running",
            "worker_async_oldest_seconds",
        ];
        Ok(left
            .iter()
            .all(|line| metric(&cluster, line) == 0)
            .then_some(()))
    })
    .unwrap();
    cluster.stop().unwrap();
}
