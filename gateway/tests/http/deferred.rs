//! Calls that nobody waits for.

use serde_json::Value;
use warmpath_sdk::deferred::CallId;

use crate::bench::{Bench, client, header};

#[tokio::test]
async fn a_call_that_nobody_waits_for_gets_an_id_and_its_outcome_later() {
    let bench = Bench::start().await;
    let kept = bench
        .post("echo")
        .header("x-warmpath-async", "true")
        .body("later");
    let kept = kept.send().await.unwrap();
    assert_eq!(kept.status(), 202);
    let place = header(&kept, "location").to_owned();
    let body: Value = kept.json().await.unwrap();
    let id: CallId = body["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(place, format!("/async/{id}"));
    assert_eq!(body["state"], "pending");
    let ask = |last: &str| {
        let url = format!("{}/async/3f0000000000000{last}", bench.base);
        client().get(url).send()
    };
    for (last, code, state) in [
        ("0", 202, "pending"),
        ("2", 502, "failed"),
        ("3", 404, "unknown"),
    ] {
        let answer = ask(last).await.unwrap();
        assert_eq!(answer.status(), code);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            (body["state"].as_str(), body["attempts"].as_u64()),
            (Some(state), Some(3))
        );
        assert_eq!(body["error"].as_str(), (state == "failed").then_some("[1]"));
    }
    let done = ask("1").await.unwrap();
    assert_eq!(
        (done.status().as_u16(), header(&done, "x-warmpath-async")),
        (200, "done")
    );
    assert_eq!(done.text().await.unwrap(), "[1]");
}

#[tokio::test]
async fn ids_and_methods_that_make_no_sense_are_refused() {
    let bench = Bench::start().await;
    for id in ["", "1", "ff00000000000000", "3f00000000000000/x"] {
        let url = format!("{}/async/{id}", bench.base);
        let answer = client().get(url).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{id}");
    }
    let url = format!("{}/async/3f00000000000000", bench.base);
    let answer = client().delete(url).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "allow")),
        (405, "GET")
    );
    let odd = bench
        .post("echo")
        .header("x-warmpath-async", "perhaps")
        .send();
    assert_eq!(odd.await.unwrap().status(), 400);
}
