//! Functions in the shape of OpenLambda's, deployed from their directories as they are and called through the gateway.

use std::path::PathBuf;

use serde_json::json;
use tests::cluster::Cluster;

use crate::{
    answer::Answer,
    bed::{examples, machine, platform},
};

pub(crate) fn call(cluster: &Cluster, method: &str, path: &str, body: &str) -> Answer {
    call_with(cluster, method, path, body, &[])
}

/// [`call`] with more headers.
pub(crate) fn call_with(
    cluster: &Cluster,
    method: &str,
    path: &str,
    body: &str,
    headers: &[&str],
) -> Answer {
    let url = format!("{}/run/{path}", cluster.gateway_url());
    let json = "content-type: application/json";
    // More than any function's own time.
    let budget = "x-warmpath-budget-ms: 60000";
    let mut args = vec!["-s", "-i", url.as_str()];
    for header in [json, budget].iter().chain(headers) {
        args.extend(["-H", header]);
    }
    match method {
        "HEAD" => args.push("--head"),
        _ => args.extend(["-X", method]),
    }
    if !body.is_empty() {
        args.extend(["-d", body]);
    }
    Answer::to(cluster, &args)
}

fn deploy(cluster: &Cluster, name: &str) {
    let dir: PathBuf = examples().join("openlambda").join(name);
    let before = listing(&dir);
    cluster.deploy(&dir).expect("deploys");
    assert_eq!(listing(&dir), before, "{name} is deployed as it is");
}

pub(crate) fn listing(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

#[test]
fn functions_of_openlambda_run_unchanged() {
    let _machine = machine();
    let cluster = platform(&[]);
    for name in ["echo", "environment", "wsgi", "asgi", "methods"] {
        deploy(&cluster, name);
    }
    let echo = call(&cluster, "POST", "echo", r#"{"a": [1, "é"]}"#);
    assert_eq!((echo.code, echo.json()), (200, json!({"a": [1, "é"]})));
    assert_eq!(
        call(&cluster, "GET", "echo", "").json(),
        json!({}),
        "as OpenLambda has it"
    );

    let names = r#"{"names": ["GREETING", "DEBUG_MODE", "PORT", "OTHER"]}"#;
    let environment = call(&cluster, "POST", "environment", names).json();
    let expected = json!({"GREETING": "Hello, world", "DEBUG_MODE": "true", "PORT": "5432", "OTHER": "not set"});
    assert_eq!(environment, expected);

    let wsgi = call(&cluster, "POST", "wsgi/a%20b?x=1&y=2", "body");
    assert_eq!((wsgi.code, wsgi.header("x-method")), (200, "post"));
    assert_eq!(wsgi.header("content-type"), "text/plain");
    let bill = wsgi.header("x-warmpath-bill");
    assert!(bill.starts_with("cpu_ns="), "{bill}");
    assert_eq!(wsgi.body, "/run/wsgi /a b x=1&y=2\nbody");
    assert_eq!(call(&cluster, "DELETE", "wsgi", "").code, 405);

    let asgi = call(&cluster, "PATCH", "asgi/x?q=1", "body");
    assert_eq!(asgi.code, 200);
    assert_eq!(asgi.body, "PATCH /run/asgi q=1\nbody");

    assert_eq!(
        call(&cluster, "PUT", "methods", "{}").json(),
        json!("called")
    );
    let head = call(&cluster, "HEAD", "methods", "");
    assert_eq!((head.code, head.body.as_str()), (200, ""));
    let refused = call(&cluster, "POST", "methods", "{}");
    assert_eq!(refused.blame(), (405, "caller", "method_not_allowed"));
    assert_eq!(refused.header("allow"), "get, head, put");
    cluster.stop().unwrap();
}

#[test]
fn functions_of_openlambda_that_misbehave_are_stopped_and_blamed() {
    let _machine = machine();
    let cluster = platform(&[]);
    for name in ["timeout", "hog", "bomb"] {
        deploy(&cluster, name);
    }
    std::thread::scope(|scope| {
        // As long as OpenLambda's own limit: meanwhile the others have their turn.
        let late = scope.spawn(|| call(&cluster, "POST", "timeout", "{}"));
        let hog = call(&cluster, "POST", "hog", "{}");
        assert_eq!(hog.blame(), (502, "function", "out_of_memory"));
        let modest = call(&cluster, "POST", "hog", r#"{"megabytes": 1}"#);
        assert_eq!(modest.json(), json!(1), "the next request is served");
        let bomb = call(&cluster, "POST", "bomb", "{}").json();
        assert!(bomb["children"].as_u64().unwrap() < 32, "{bomb}");
        assert_eq!(bomb["stopped_by"], "BlockingIOError");
        let late = late.join().unwrap();
        assert_eq!(late.blame(), (504, "function", "timeout"));
    });
    let awake = call(&cluster, "POST", "timeout", r#"{"seconds": 0}"#);
    assert_eq!(awake.json(), json!("awake"));
    cluster.stop().unwrap();
}
