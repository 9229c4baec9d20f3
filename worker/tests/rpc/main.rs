//! SDK and RPC server against each other over loopback, in good and in bad weather.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod bench;
mod callers;
mod cancel;
mod deferred;
mod keeper;
mod parked;
mod relay;
mod stream;
mod trigger;

use std::{sync::atomic::Ordering, time::Instant};

use ebpf_common::{
    ids::FunctionId,
    wire::{Fault, Status},
};
use warmpath_sdk::{Call, CallError, Client, MAX_MESSAGE};
use worker::rpc::RpcLimits;

use self::{
    bench::{Bench, MS, TIMEOUT_MS, call, client_of},
    relay::{Relay, Weather},
};

pub(crate) const STORM: Weather = Weather {
    lost: 20,
    repeated: 15,
    delayed: 15,
};

pub(crate) async fn status_of(client: &Client, call: Call) -> (Status, String) {
    match client.call(call).await {
        Err(CallError::Status {
            status, message, ..
        }) => (status, message),
        other => panic!("not a status: {other:?}"),
    }
}

/// Runs `calls` at once and returns how each ended.
pub(crate) async fn all(
    client: &Client,
    calls: Vec<Call>,
) -> Vec<Result<warmpath_sdk::Response, CallError>> {
    let tasks: Vec<_> = calls
        .into_iter()
        .map(|call| {
            let client = client.clone();
            tokio::spawn(async move { client.call(call).await })
        })
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test]
async fn an_echo_comes_back_with_the_workers_cookie() {
    let bench = Bench::start();
    let reply = bench
        .client()
        .call(call("echo").payload("hi"))
        .await
        .unwrap();
    assert_eq!(reply.payload, "hi");
    assert_eq!(reply.worker().unwrap().0, 1);
    // A machine with other work may pause for longer than a client waits before it sends again.
    assert!(reply.retransmits == 0 || reply.elapsed >= 15 * MS);
}

#[tokio::test]
async fn in_a_storm_every_request_is_answered_once_and_runs_once() {
    for seed in 1..=3 {
        let bench = Bench::start();
        let relay = Relay::to(bench.address, STORM, seed).await;
        let client = client_of(relay.vip);
        let calls = (0..300u32).map(|number| call("echo").payload(number.to_be_bytes().to_vec()));
        for (number, reply) in all(&client, calls.collect()).await.into_iter().enumerate() {
            assert_eq!(
                reply.unwrap().payload,
                (number as u32).to_be_bytes().to_vec(),
                "seed {seed}"
            );
        }
        assert_eq!(bench.runs.requests(), 300, "seed {seed}");
        assert_eq!(bench.runs.most_for_one_request(), 1, "seed {seed}");
        assert!(client.stats().packets_retransmitted > 0);
        assert!(
            bench.metrics.replays() > 0,
            "lost replies are repeated, not computed again"
        );
    }
}

#[tokio::test]
async fn in_a_storm_64_kib_go_both_ways_and_the_handler_runs_once() {
    for seed in 1..=3 {
        let bench = Bench::start();
        let relay = Relay::to(bench.address, STORM, seed).await;
        let client = client_of(relay.vip);
        let payload = |number: usize| -> Vec<u8> {
            (0..MAX_MESSAGE - number)
                .map(|byte| (byte * (number + 3) / 11) as u8)
                .collect()
        };
        let calls = (0..10).map(|number| call("echo").payload(payload(number)));
        for (number, reply) in all(&client, calls.collect()).await.into_iter().enumerate() {
            let reply = reply.unwrap();
            assert!(
                reply.payload == payload(number),
                "seed {seed}, request {number}"
            );
        }
        assert_eq!(bench.runs.requests(), 10);
        assert_eq!(bench.runs.most_for_one_request(), 1);
    }
}

/// Acknowledged, then refused: whether the client hears of that or has to ask, it knows that nothing has run.
#[tokio::test]
async fn in_a_storm_refused_requests_are_sent_again_and_none_is_of_unknown_outcome() {
    for seed in 1..=3 {
        let bench = Bench::start();
        let relay = Relay::to(bench.address, STORM, seed).await;
        let client = client_of(relay.vip);
        let payload = |number: usize| vec![number as u8; 1 + number % 2 * 3_000];
        let calls = (0..100).map(|number| call("refuses").payload(payload(number)));
        for (number, reply) in all(&client, calls.collect()).await.into_iter().enumerate() {
            let reply = reply.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert!(reply.payload == payload(number), "seed {seed}");
        }
        assert_eq!(bench.runs.most_for_one_request(), 3, "seed {seed}");
    }
}

#[tokio::test]
async fn in_good_weather_64_kib_arrive_at_the_first_attempt() {
    let bench = Bench::start();
    let client = bench.client();
    for _ in 0..20 {
        let reply = client
            .call(call("echo").payload(vec![7; MAX_MESSAGE]))
            .await
            .unwrap();
        assert_eq!(reply.payload.len(), MAX_MESSAGE);
        // A machine with other work may pause for longer than a gap between fragments should last.
        assert_eq!(reply.attempts, 1);
    }
    assert_eq!(bench.runs.requests(), 20);
}

#[tokio::test]
async fn a_slow_handler_is_acknowledged_and_waited_for() {
    let bench = Bench::start();
    let relay = Relay::to(bench.address, Weather::default(), 0).await;
    let reply = client_of(relay.vip)
        .call(call("slow").payload("x"))
        .await
        .unwrap();
    assert_eq!(reply.payload, "x");
    assert!(reply.elapsed >= 100 * MS);
    assert!(
        relay.forwarded() <= 12,
        "{} packets for one slow request",
        relay.forwarded()
    );
    assert_eq!(bench.runs.most_for_one_request(), 1);
}

#[tokio::test]
async fn each_failure_says_what_it_was() {
    let bench = Bench::start();
    let client = bench.client();
    let raised = (Status::Exception, "ValueError: no".to_owned());
    assert_eq!(status_of(&client, call("raise")).await, raised);
    assert_eq!(
        status_of(&client, call("nope")).await.0,
        Status::UnknownFunction
    );
    assert_eq!(status_of(&client, call("long")).await.0, Status::BadReply);
    assert_eq!(status_of(&client, call("stuck")).await.0, Status::Timeout);
}

#[tokio::test]
async fn the_earlier_of_both_deadlines_holds() {
    let bench = Bench::start();
    let client = bench.client();
    let begun = Instant::now();
    assert_eq!(status_of(&client, call("stuck")).await.0, Status::Timeout);
    assert!(begun.elapsed() >= TIMEOUT_MS * MS && begun.elapsed() < 5 * TIMEOUT_MS * MS);

    let begun = Instant::now();
    let error = client
        .call(call("stuck").budget(100 * MS))
        .await
        .unwrap_err();
    assert!(begun.elapsed() < TIMEOUT_MS * MS, "{:?}", begun.elapsed());
    // Whether the worker's word or the client's own clock comes first, it is the caller's budget.
    assert_eq!(error.status(), Some(Status::BudgetExceeded), "{error}");
    assert_eq!(error.fault(), Fault::Caller);
}

#[tokio::test]
async fn a_panic_of_the_pool_does_not_leave_the_request_running_for_ever() {
    let bench = Bench::start();
    let error = bench
        .client()
        .call(call("panic").budget(300 * MS))
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    assert_eq!(bench.load.in_flight(), 0);
    assert!(bench.client().call(call("echo")).await.is_ok());
}

#[tokio::test]
async fn beyond_its_capacity_a_worker_refuses_and_clients_come_back() {
    let bench = Bench::with(1, 4, RpcLimits::default());
    let client = bench.client();
    for reply in all(&client, vec![call("slow"); 20]).await {
        assert!(reply.is_ok(), "{reply:?}");
    }
    assert!(bench.runs.running_most.load(Ordering::Relaxed) <= 4);
    assert!(client.stats().attempts_repeated > 0);
    let refused = all(&client, vec![call("slow").budget(60 * MS); 20]).await;
    let overloaded = refused.iter().filter(|reply| {
        reply
            .as_ref()
            .is_err_and(|error| error.status() == Some(Status::Overloaded))
    });
    assert!(overloaded.count() >= 5);
}

#[tokio::test]
async fn a_stopping_worker_finishes_what_it_has_and_refuses_the_rest() {
    let bench = Bench::start();
    let client = bench.client();
    let running = tokio::spawn({
        let client = client.clone();
        async move { client.call(call("slow")).await }
    });
    while bench.load.in_flight() == 0 {
        tokio::time::sleep(MS).await;
    }
    bench.load.drain();
    assert_eq!(
        status_of(&client, call("echo").budget(500 * MS)).await.0,
        Status::Draining
    );
    assert!(running.await.unwrap().is_ok());
    bench.load.idle().await;
}

#[tokio::test]
async fn a_session_reaches_the_handler() {
    let bench = Bench::start();
    let reply = bench
        .client()
        .call(call("session").session(77))
        .await
        .unwrap();
    assert_eq!(reply.payload, "Some(77)");
    let reply = bench.client().call(call("session")).await.unwrap();
    assert_eq!(reply.payload, "None");
}

#[tokio::test]
async fn a_ping_runs_no_handler() {
    let bench = Bench::start();
    bench
        .client()
        .ping(FunctionId::of("echo"), 1_000 * MS)
        .await
        .unwrap();
    assert_eq!(bench.runs.requests(), 0);
}

/// Two workers; the traffic moves from the first to the second while the first runs a request.
async fn moved(idempotent: bool) -> (Result<warmpath_sdk::Response, CallError>, Bench, Bench) {
    let (old, new) = (Bench::start(), Bench::with(2, 10, RpcLimits::default()));
    let relay = Relay::to(old.address, Weather::default(), 0).await;
    let client = client_of(relay.vip);
    let calling = tokio::spawn(async move {
        client
            .call(call("slow").payload("x").idempotent(idempotent))
            .await
    });
    while old.metrics.acknowledgements() == 0 {
        tokio::time::sleep(MS).await;
    }
    // The acknowledgement arrives, and the handler still runs.
    while relay.returned() == 0 {
        tokio::time::sleep(MS).await;
    }
    tokio::time::sleep(20 * MS).await;
    relay.send_to("127.0.0.1:9".parse().unwrap());
    tokio::time::sleep(20 * MS).await;
    relay.send_to(new.address);
    let result = calling.await.unwrap();
    (result, old, new)
}

#[tokio::test]
async fn a_request_that_a_lost_worker_had_runs_again_only_if_it_may() {
    let (result, _, new) = moved(false).await;
    // The first worker lives on here and may answer; what must not be is a second run.
    if let Err(error) = result {
        assert_eq!(error.status(), Some(Status::OutcomeUnknown), "{error}");
    }
    assert_eq!(new.runs.requests(), 0);
    let (result, old, new) = moved(true).await;
    assert_eq!(result.unwrap().payload, "x");
    assert_eq!(
        old.runs.requests() + new.runs.requests(),
        new.runs.requests() + 1
    );
}

#[tokio::test]
async fn a_retransmission_with_another_workers_cookie_is_refused_unless_idempotent() {
    for idempotent in [false, true] {
        let (first, second) = (Bench::start(), Bench::with(2, 10, RpcLimits::default()));
        let relay = Relay::to(first.address, Weather::default(), 0).await;
        let client = client_of(relay.vip);
        let session = || call("session").session(5).idempotent(idempotent);
        client.call(session()).await.unwrap();
        // The first packet of the next call is lost with the worker; its repetition reaches the other.
        relay.send_to("127.0.0.1:9".parse().unwrap());
        let before = relay.forwarded();
        let calling = tokio::spawn({
            let (client, session) = (client.clone(), session());
            async move { client.call(session).await }
        });
        while relay.forwarded() == before {
            tokio::time::sleep(MS).await;
        }
        relay.send_to(second.address);
        let result = calling.await.unwrap();
        if idempotent {
            assert_eq!(result.unwrap().worker().unwrap().0, 2);
        } else {
            assert_eq!(result.unwrap_err().status(), Some(Status::OutcomeUnknown));
            assert_eq!(second.runs.requests(), 0);
            // The session goes on at the new worker.
            assert_eq!(client.call(session()).await.unwrap().worker().unwrap().0, 2);
        }
    }
}

#[tokio::test]
async fn garbage_is_dropped_and_the_next_request_is_served() {
    let bench = Bench::start();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(bench.address).await.unwrap();
    for len in 0..200 {
        socket.send(&vec![0x57; len]).await.unwrap();
    }
    socket.send(&[0; 9_000]).await.unwrap();
    assert!(bench.client().call(call("echo")).await.is_ok());
    let mut buffer = [0; 100];
    assert!(
        socket.try_recv(&mut buffer).is_err(),
        "garbage gets no answer"
    );
}
