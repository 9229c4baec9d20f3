//! Functions in the shape of OpenLambda's that need packages: the real Flask, FastAPI, numpy and pandas, from an
//! index that the test serves in the client's namespace, which has no way to any other.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use serde_json::json;
use tempfile::TempDir;
use tests::{
    cluster::Cluster,
    index::{Index, Mood, real_wheels},
};

use crate::{
    bed::{DEMO, examples, machine, platform},
    openlambda::{call, call_with, listing},
};

#[test]
fn functions_of_openlambda_that_need_packages_run_unchanged() {
    let _machine = machine();
    let cluster = platform(&[]);
    let index = serve_index(&cluster);
    let copies = TempDir::new().unwrap();
    std::thread::scope(|scope| {
        for name in ["flask", "fastapi", "installed", "numpy", "pandas"] {
            let dir = copy(name, copies.path());
            let (cluster, url) = (&cluster, index.url());
            scope.spawn(move || {
                let mut files = listing(&dir);
                cluster
                    .deploy_with(&dir, &["--index-url", url])
                    .unwrap_or_else(|error| panic!("{name}: {error:#}"));
                files.push(dir.join("requirements.lock"));
                files.sort();
                assert_eq!(listing(&dir), files, "{name} is deployed as it is");
            });
        }
    });
    flask(&cluster);
    fastapi(&cluster);
    others(&cluster);
    cluster.stop().unwrap();
}

/// An index where the deployer runs.
fn serve_index(cluster: &Cluster) -> Index {
    let target = Path::new(DEMO).ancestors().nth(2).unwrap();
    let listen = || TcpListener::bind("127.0.0.1:0");
    let listener = cluster.topology.client.netns.enter(listen).unwrap();
    Index::serve(
        listener.unwrap(),
        Mood::Honest,
        real_wheels(target).unwrap(),
    )
    .unwrap()
}

/// A copy of the example `name` below `folder`: the lock is written beside the requirements.
fn copy(name: &str, folder: &Path) -> PathBuf {
    let copy = folder.join(name);
    fs::create_dir(&copy).unwrap();
    for file in listing(&examples().join("openlambda").join(name)) {
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    copy
}

/// What the platform says of a reply that the application itself refuses with: all is well.
const fn by_application(code: u16) -> (u16, &'static str, &'static str) {
    (code, "nobody", "ok")
}

/// Routes, methods, queries, headers, status codes and errors are the application's own.
fn flask(cluster: &Cluster) {
    let index = call(cluster, "GET", "flask/", "");
    assert_eq!(
        (index.code, index.body.as_str()),
        (200, "hello from /run/flask\n")
    );
    assert_eq!(index.header("content-type"), "text/html; charset=utf-8");

    let got = call_with(
        cluster,
        "GET",
        "flask/users/J%C3%BCrgen?page=2&x=",
        "",
        &["X-Agent: Test"],
    );
    assert_eq!(got.code, 200);
    assert_eq!(
        got.json(),
        json!({"name": "Jürgen", "page": "2", "agent": "Test"})
    );
    let put = call(cluster, "PUT", "flask/users/ada", r#"{"age": 36}"#);
    assert_eq!(
        (put.code, put.json()),
        (201, json!({"name": "ada", "age": 36}))
    );
    assert_eq!(put.header("location"), "/users/ada");
    assert_eq!(put.header("content-type"), "application/json");
    let head = call(cluster, "HEAD", "flask/users/ada", "");
    assert_eq!((head.code, head.body.as_str()), (200, ""));

    let missing = call(cluster, "GET", "flask/nothing", "");
    assert_eq!(missing.blame(), by_application(404));
    assert!(
        missing.body.contains("<title>404 Not Found</title>"),
        "{}",
        missing.body
    );
    let refused = call(cluster, "DELETE", "flask/users/ada", "");
    assert_eq!(refused.blame(), by_application(405));
    let mut allowed: Vec<_> = refused.header("allow").split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["get", "head", "options", "put"]);
    let invalid = call(cluster, "PUT", "flask/users/ada", "{");
    assert_eq!(invalid.blame(), by_application(400));
    let fails = call(cluster, "GET", "flask/fails", "");
    assert_eq!(
        (fails.code, fails.header("x-warmpath-fault")),
        (500, "function")
    );
    assert!(
        fails.body.contains("Internal Server Error"),
        "{}",
        fails.body
    );
}

/// Types of paths and bodies are checked by the application, and its errors are JSON.
fn fastapi(cluster: &Cluster) {
    let hello = call(cluster, "GET", "fastapi/", "");
    assert_eq!(
        (hello.code, hello.json()),
        (200, json!({"message": "hello world"}))
    );
    let item = r#"{"name": "tea", "price": 2.25}"#;
    let put = call(cluster, "PUT", "fastapi/items/7", item);
    assert_eq!((put.code, put.header("x-item")), (201, "7"));
    assert_eq!(put.json(), json!({"number": 7, "total": 4.5}));

    let invalid = |path: &str, body: &str| {
        let refused = call(cluster, "PUT", path, body);
        assert_eq!(refused.blame(), by_application(422), "{}", refused.body);
        let detail = &refused.json()["detail"][0];
        (detail["type"].clone(), detail["loc"].clone())
    };
    let number = (json!("int_parsing"), json!(["path", "number"]));
    assert_eq!(invalid("fastapi/items/seven", item), number);
    let price = (json!("missing"), json!(["body", "price"]));
    assert_eq!(invalid("fastapi/items/7", r#"{"name": "tea"}"#), price);
    let text = (json!("json_invalid"), json!(["body", 1]));
    assert_eq!(invalid("fastapi/items/7", "{"), text);

    let refused = call(cluster, "GET", "fastapi/items/7", "");
    assert_eq!(
        (refused.blame(), refused.header("allow")),
        (by_application(405), "put")
    );
    assert_eq!(refused.json(), json!({"detail": "Method Not Allowed"}));
    let missing = call(cluster, "GET", "fastapi/nothing", "");
    assert_eq!(
        (missing.code, missing.json()),
        (404, json!({"detail": "Not Found"}))
    );
    let schema = call(cluster, "GET", "fastapi/openapi.json", "").json();
    assert_eq!(schema["servers"], json!([{"url": "/run/fastapi"}]));
}

fn others(cluster: &Cluster) {
    let installed = call(cluster, "POST", "installed", r#"{"a": [1.5, "é"]}"#).json();
    assert_eq!(
        installed,
        json!({"version": "3.20.1", "event": {"a": [1.5, "é"]}})
    );

    let sum = call(cluster, "POST", "numpy", r#"{"numbers": [1, 2, 39]}"#).json();
    assert_eq!(sum, json!({"sum": 42, "version": "2.2.6"}));
    let wrong = call(cluster, "POST", "numpy", r#"{"numbers": ["one"]}"#);
    assert_eq!(wrong.blame(), (500, "function", "exception"));

    let rows = r#"{"rows": [["ann", 1], ["bob", 2], ["ann", 40.5]]}"#;
    let totals = call(cluster, "POST", "pandas", rows);
    assert_eq!(
        (totals.code, totals.json()),
        (200, json!({"ann": 41.5, "bob": 2.0}))
    );
}
