//! Calls that nobody waits for: kept before they are answered, made at least once, over crashes too.

use bytes::Bytes;
use ebpf_common::wire::Status;
use store::Catalog;
use tempfile::TempDir;
use tokio::time::sleep;
use warmpath_sdk::{
    deferred::{Ask, CallId, DeadCalls, Deferred, State},
    http,
};

use crate::{
    bench::{Bench, MS, version},
    keeper::{Keeper, until_crash},
};

async fn submitted(keeper: &Keeper, function: &str, event: &[u8]) -> CallId {
    let id = CallId::random();
    keeper.ask(&submit(id, function), event).await;
    id
}

fn submit(id: CallId, function: &str) -> Ask {
    let call = Deferred {
        function: function.to_owned(),
        http: false,
        session: None,
        slot: None,
        budget_ms: 5_000,
    };
    Ask::Submit { id, call }
}

#[tokio::test]
async fn a_call_is_kept_made_and_its_reply_found_by_its_id() {
    let dir = TempDir::new().unwrap();
    let mut keeper = Keeper::start(dir.path());
    let early = submitted(&keeper, "echo", b"early").await;
    assert_eq!(keeper.report(early).await.0.state, State::Pending);
    keeper.make();
    let late = submitted(&keeper, "echo", b"late").await;
    for (id, event) in [(early, "early"), (late, "late")] {
        let (report, reply) = keeper.once(id, State::Done).await;
        assert_eq!(reply, event);
        assert_eq!((report.function.as_str(), report.attempts), ("echo", 0));
    }
    // Submitted again, as a repeated packet would: it has ended, and is not made again.
    let runs = keeper.bench.runs.requests();
    keeper.ask(&submit(late, "echo"), b"late").await;
    assert_eq!(keeper.report(late).await.0.state, State::Done);
    sleep(50 * MS).await;
    assert_eq!(keeper.bench.runs.requests(), runs);
    let nobodys = CallId::random();
    assert_eq!(keeper.report(nobodys).await.0.state, State::Unknown);
}

#[test]
fn nothing_that_was_answered_is_lost_when_the_worker_dies_before_it_makes_it() {
    let dir = TempDir::new().unwrap();
    let ids = until_crash(async {
        let keeper = Keeper::start(dir.path());
        let mut ids = Vec::new();
        for number in 0..40u8 {
            ids.push(submitted(&keeper, "echo", &[number]).await);
        }
        ids
    });
    until_crash(async {
        let mut keeper = Keeper::start(dir.path());
        keeper.make();
        for (id, number) in ids.into_iter().zip(0u8..) {
            assert_eq!(keeper.once(id, State::Done).await.1[..], [number]);
        }
    });
}

#[test]
fn a_call_that_the_worker_died_with_is_made_again() {
    let dir = TempDir::new().unwrap();
    let id = until_crash(async {
        let mut keeper = Keeper::start(dir.path());
        keeper.make();
        // Waits for a feed that does not move before the worker dies.
        let id = submitted(&keeper, "waits", b"{late}").await;
        keeper.once(id, State::Running).await;
        id
    });
    until_crash(async {
        let mut keeper = Keeper::start(dir.path());
        keeper.make();
        keeper.once(id, State::Running).await;
        keeper.put("{late}", "x").await;
        assert_eq!(keeper.once(id, State::Done).await.1, "feed 1 s");
    });
}

#[tokio::test]
async fn what_fails_again_and_again_is_given_up_listed_and_tried_once_more_on_request() {
    let dir = TempDir::new().unwrap();
    let mut keeper = Keeper::start(dir.path());
    keeper.make();
    let id = submitted(&keeper, "raise", b"x").await;
    let (report, error) = keeper.once(id, State::Failed).await;
    assert_eq!(
        (report.attempts, report.status.as_deref()),
        (2, Some("exception"))
    );
    assert!(
        String::from_utf8_lossy(&error).contains("ValueError: no"),
        "{error:?}"
    );
    assert_eq!(keeper.bench.runs.requests(), 2);
    let dead = keeper.ask(&Ask::Dead { shelf: id.shelf() }, b"").await;
    let (dead, _) = http::split::<DeadCalls>(&dead).unwrap();
    let listed: Vec<_> = dead
        .calls
        .iter()
        .map(|call| (call.id, call.function.as_str()))
        .collect();
    assert_eq!(listed, [(id, "raise")]);
    keeper.ask(&Ask::Retry { id }, b"").await;
    keeper.once(id, State::Failed).await;
    assert_eq!(keeper.bench.runs.requests(), 4);
}

#[tokio::test]
async fn a_call_that_takes_its_time_holds_up_no_other() {
    let dir = TempDir::new().unwrap();
    let mut keeper = Keeper::start(dir.path());
    keeper.make();
    let on_one_shelf = |number| CallId::of(7, [number; 7]).unwrap();
    // Waits for a feed that does not move, as long as its budget.
    keeper
        .ask(&submit(on_one_shelf(1), "waits"), b"{never}")
        .await;
    keeper.once(on_one_shelf(1), State::Running).await;
    keeper.ask(&submit(on_one_shelf(2), "echo"), b"x").await;
    keeper.once(on_one_shelf(2), State::Done).await;
    let (first, _) = keeper.report(on_one_shelf(1)).await;
    assert_eq!((first.state, first.attempts), (State::Running, 0));
    keeper
        .counts("worker_async_attempts_total{outcome=\"done\"} 1")
        .await;
}

#[tokio::test]
async fn a_manifest_says_how_often_its_function_is_tried() {
    let dir = TempDir::new().unwrap();
    let mut keeper = Keeper::start(dir.path());
    keeper.bench.functions.replace(Catalog {
        revision: 2,
        entries: vec![version(
            "raise",
            "latest",
            1,
            "[async]\nattempts = 4\nbackoff_ms = 5",
        )],
    });
    keeper.make();
    let id = submitted(&keeper, "raise", b"x").await;
    let (report, _) = keeper.once(id, State::Failed).await;
    assert_eq!(report.attempts, 4, "and not two");
    for line in [
        "worker_async_kept_total 1",
        "worker_async_attempts_total{outcome=\"failed\"} 4",
        "worker_async_ended_total{state=\"failed\"} 1",
    ] {
        keeper.counts(line).await;
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_the_callers_fault() {
    let dir = TempDir::new().unwrap();
    let keeper = Keeper::start(dir.path());
    let no_shelf = Ask::Dead { shelf: 200 }.call(b"").unwrap();
    let garbage = warmpath_sdk::Call {
        payload: Bytes::from_static(b"garbage"),
        ..no_shelf.clone()
    };
    for call in [no_shelf, garbage] {
        let error = keeper.client.call(call).await.unwrap_err();
        assert_eq!(error.status(), Some(Status::BadPayload), "{error}");
    }
    // A worker that keeps no calls does not know the function.
    let bench = Bench::start();
    let ask = Ask::Outcome {
        id: CallId::random(),
    }
    .call(b"")
    .unwrap();
    let error = bench.client().call(ask).await.unwrap_err();
    assert_eq!(error.status(), Some(Status::UnknownFunction), "{error}");
}
