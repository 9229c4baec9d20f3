//! Calls that nobody waits for: kept before they are answered, made at least once, over crashes too.

use bytes::Bytes;
use ebpf_common::wire::Status;
use store::Catalog;
use tempfile::TempDir;
use tokio::time::sleep;
use warmpath_sdk::{
    deferred::{Ask, CallId, DeadCalls, Deferred, State},
    http::{self, CALLER, RequestHead, ResponseHead},
};
use worker::bill::{BillConfig, Word};

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

/// Has `payer` called by HTTP as a gateway has it that `caller` calls.
async fn submitted_for(keeper: &Keeper, function: &str, caller: &str) -> CallId {
    let head = RequestHead {
        headers: vec![(CALLER.to_owned(), caller.to_owned())],
        ..RequestHead::of_call(0)
    };
    let event = http::join(&head, b"").unwrap();
    let id = CallId::random();
    let Ask::Submit { mut call, .. } = submit(id, function) else {
        unreachable!("that is what `submit` makes")
    };
    call.http = true;
    keeper.ask(&Ask::Submit { id, call }, &event).await;
    id
}

async fn payer_of(keeper: &Keeper, id: CallId) -> String {
    let (_, reply) = keeper.once(id, State::Done).await;
    let (_, body) = http::split::<ResponseHead>(&reply).unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn whoever_asked_for_a_call_pays_for_it_whichever_process_makes_it() {
    let dir = TempDir::new().unwrap();
    let believe = |keeper: &Keeper| {
        keeper.bench.server.believe(BillConfig {
            gateways: vec!["127.0.0.1".parse().unwrap()],
        });
    };
    let ids = until_crash(async {
        let keeper = Keeper::start(dir.path());
        believe(&keeper);
        let named = submitted_for(&keeper, "payer", "192.0.2.7").await;
        let garbled = submitted_for(&keeper, "payer", "trigger:f/t").await;
        let counted = [Word::Believed, Word::Ignored, Word::Garbled];
        let counted = counted.map(|word| keeper.bench.metrics.callers_named(word));
        assert_eq!(counted, [1, 0, 1]);
        [named, garbled]
    });
    until_crash(async {
        let mut keeper = Keeper::start(dir.path());
        // It makes the calls, and believes nobody: who pays was settled when they were kept.
        keeper.make();
        assert_eq!(payer_of(&keeper, ids[0]).await, "192.0.2.7");
        assert_eq!(payer_of(&keeper, ids[1]).await, "127.0.0.1");
        let counted = keeper.bench.metrics.callers_named(Word::Ignored);
        assert_eq!(counted, 0, "the worker's own calls are no tries");
        // Whoever is no gateway pays for what it asks for.
        let forged = submitted_for(&keeper, "payer", "192.0.2.7").await;
        assert_eq!(payer_of(&keeper, forged).await, "127.0.0.1");
        assert_eq!(keeper.bench.metrics.callers_named(Word::Ignored), 1);
    });
}

#[tokio::test]
async fn a_call_that_was_given_up_is_tried_again_on_the_same_bill() {
    let dir = TempDir::new().unwrap();
    let mut keeper = Keeper::start(dir.path());
    keeper.bench.server.believe(BillConfig {
        gateways: vec!["127.0.0.1".parse().unwrap()],
    });
    keeper.make();
    // Nobody has such a function yet: given up at once.
    let id = submitted_for(&keeper, "payer2", "192.0.2.7").await;
    keeper.once(id, State::Failed).await;
    keeper.bench.functions.replace(Catalog {
        revision: 9,
        entries: vec![version("payer2", "latest", 1, "")],
    });
    keeper.ask(&Ask::Retry { id }, b"").await;
    assert_eq!(payer_of(&keeper, id).await, "192.0.2.7");
}

#[tokio::test]
async fn a_word_that_stands_for_nobody_changes_no_bill() {
    let dir = TempDir::new().unwrap();
    let keeper = Keeper::start(dir.path());
    let mut call = crate::bench::call("payer");
    call.trace_id = 0x5eed;
    let reply = keeper.client.call(call).await.unwrap();
    assert_eq!(reply.payload, "127.0.0.1");
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
