//! Requests that wait: woken by writes and by time, bounded by their callers, held by nobody.

use std::{sync::Arc, time::Duration};

use db::{Op, SlotMap, SlotOwner};
use ebpf_common::wire::Status;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use warmpath_sdk::Client;
use worker::{park::ParkLimits, rpc::RpcLimits};

use crate::{
    STORM, all,
    bench::{Bench, MS, call, client_of, local},
    relay::Relay,
    status_of,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A worker that keeps all slots itself, and can run `capacity` requests at a time and park `requests`.
fn bench(dir: &TempDir, capacity: u32, requests: usize) -> (Bench, Arc<db::Router>) {
    let feeds = db::Router::new(Some(local(dir.path())), db::Metrics::unregistered());
    let feeds = Arc::new(feeds);
    let park = ParkLimits {
        requests,
        ..ParkLimits::default()
    };
    let bench = Bench::parking(1, capacity, RpcLimits::default(), Arc::clone(&feeds), park);
    (bench, feeds)
}

async fn write(feeds: &db::Router, key: &str) {
    let op = Op::Put {
        key: key.into(),
        value: b"1".to_vec(),
    };
    feeds.execute(op).await.unwrap();
}

/// Waits until so many requests are parked, and nothing runs.
pub(crate) async fn parked(bench: &Bench, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while bench.server.parked().0 != count || bench.load.in_flight() > 0 {
        assert!(Instant::now() < deadline, "{:?}", bench.server.parked());
        sleep(MS).await;
    }
}

fn waiting(client: &Client, key: &str) -> tokio::task::JoinHandle<String> {
    let (client, call) = (client.clone(), call("waits").payload(key.to_owned()));
    tokio::spawn(async move {
        let reply = client.call(call.budget(PATIENCE)).await.unwrap();
        String::from_utf8(reply.payload.to_vec()).unwrap()
    })
}

#[tokio::test]
async fn a_request_that_waits_holds_no_place_and_goes_on_when_the_feed_moves() {
    let dir = TempDir::new().unwrap();
    let (bench, feeds) = bench(&dir, 1, 10);
    let client = bench.client();
    let reply = waiting(&client, "{u}");
    parked(&bench, 1).await;
    let echo = client.call(call("echo").payload("x")).await.unwrap();
    assert_eq!(echo.payload, "x", "the only place is free");
    write(&feeds, "{another}").await;
    parked(&bench, 1).await;
    write(&feeds, "{u}:a").await;
    assert_eq!(timeout(PATIENCE, reply).await.unwrap().unwrap(), "feed 1 s");
    // Behind what has happened already nobody waits.
    let reply = waiting(&client, "{u}");
    assert_eq!(timeout(PATIENCE, reply).await.unwrap().unwrap(), "feed 1 s");
    parked(&bench, 0).await;
    assert_eq!(bench.runs.most_for_one_request(), 2);
}

#[tokio::test]
async fn a_feed_that_is_kept_elsewhere_wakes_as_well() {
    let dir = TempDir::new().unwrap();
    let elsewhere = local(dir.path());
    let routes = db::server::router(elsewhere.clone(), db::Metrics::unregistered());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let feeds = Arc::new(db::Router::new(None, db::Metrics::unregistered()));
    let park = ParkLimits::default();
    let bench = Bench::parking(1, 10, RpcLimits::default(), Arc::clone(&feeds), park);
    let client = bench.client();
    let replies: Vec<_> = (0..20).map(|_| waiting(&client, "{u}")).collect();
    // Nobody is known to own the slot yet: they wait all the same.
    parked(&bench, 20).await;
    let owner = SlotOwner {
        range: "0-16383".parse().unwrap(),
        shard: "w1".to_owned(),
        url,
    };
    assert!(feeds.set_slots(SlotMap {
        version: 1,
        owners: vec![owner],
    }));
    write(&feeds, "{u}").await;
    for reply in replies {
        assert_eq!(timeout(PATIENCE, reply).await.unwrap().unwrap(), "feed 1 s");
    }
}

#[tokio::test]
async fn time_wakes_too_and_the_callers_budget_ends_it() {
    let dir = TempDir::new().unwrap();
    let (bench, _feeds) = bench(&dir, 10, 10);
    let client = bench.client();
    let begun = Instant::now();
    let reply = client.call(call("naps").payload("100")).await.unwrap();
    assert_eq!(reply.payload, "time 0 s");
    assert!(begun.elapsed() >= 100 * MS);
    let begun = Instant::now();
    let late = client
        .call(call("naps").payload("60000").budget(200 * MS))
        .await
        .unwrap_err();
    // Whether the worker's word or the client's own clock comes first, it is the caller's budget.
    assert_eq!(late.status(), Some(Status::BudgetExceeded), "{late}");
    assert!(begun.elapsed() >= 200 * MS && begun.elapsed() < PATIENCE);
    parked(&bench, 0).await;
}

#[tokio::test]
async fn in_a_storm_everybody_who_waits_is_woken_once() {
    let dir = TempDir::new().unwrap();
    let (bench, feeds) = bench(&dir, 8, 1_000);
    let relay = Relay::to(bench.address, STORM, 1).await;
    let client = client_of(relay.vip);
    let replies: Vec<_> = (0..200).map(|_| waiting(&client, "{u}")).collect();
    parked(&bench, 200).await;
    write(&feeds, "{u}").await;
    for reply in replies {
        assert_eq!(timeout(PATIENCE, reply).await.unwrap().unwrap(), "feed 1 s");
    }
    assert_eq!(bench.runs.requests(), 200);
    assert_eq!(bench.runs.most_for_one_request(), 2);
    assert!(
        bench
            .runs
            .running_most
            .load(std::sync::atomic::Ordering::Relaxed)
            <= 8
    );
}

#[tokio::test]
async fn where_there_is_no_room_to_park_only_what_may_run_twice_is_tried_elsewhere() {
    let dir = TempDir::new().unwrap();
    let (bench, _feeds) = bench(&dir, 10, 1);
    let client = bench.client();
    let first = waiting(&client, "{u}");
    parked(&bench, 1).await;
    let nap = || call("naps").payload("60000").budget(300 * MS);
    let (status, message) = status_of(&client, nap()).await;
    assert_eq!(status, Status::OutcomeUnknown);
    assert!(message.contains("no room"), "{message}");
    let (status, _) = status_of(&client, nap().idempotent(true)).await;
    assert_eq!(status, Status::Overloaded);
    first.abort();
}

#[tokio::test]
async fn a_worker_that_stops_answers_those_it_has_parked() {
    let dir = TempDir::new().unwrap();
    let (bench, _feeds) = bench(&dir, 10, 10);
    let client = bench.client();
    let calls = [false, true].map(|idempotent| {
        let call = call("naps").payload("60000").idempotent(idempotent);
        call.budget(2_000 * MS)
    });
    let ended = tokio::spawn(async move { all(&client, calls.to_vec()).await });
    parked(&bench, 2).await;
    bench.load.drain();
    bench.server.dismiss_parked().await;
    let ended = timeout(PATIENCE, ended).await.unwrap().unwrap();
    let statuses: Vec<_> = ended
        .into_iter()
        .map(|reply| reply.unwrap_err().status().unwrap())
        .collect();
    assert_eq!(statuses, [Status::OutcomeUnknown, Status::Draining]);
    bench.load.idle().await;
}
