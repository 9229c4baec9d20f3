//! Callers that give up: what runs for them ends, and does not begin again.

use ebpf_common::wire::{RpcHeader, flags};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep},
};

use crate::{
    bench::{Bench, MS, call},
    parked::parked,
};

/// Waits until so many have been given up.
async fn cancelled(bench: &Bench, place: &str, count: u64) {
    let deadline = Instant::now() + 10_000 * MS;
    while bench.metrics.cancels(place) != count {
        assert!(
            Instant::now() < deadline,
            "{}",
            bench.metrics.cancels(place)
        );
        sleep(MS).await;
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_ends_what_runs_and_what_is_parked() {
    let bench = Bench::start();
    let client = bench.client();
    for (place, call) in [
        ("running", call("slow")),
        ("parked", call("naps").payload("60000")),
    ] {
        let calling = tokio::spawn({
            let client = client.clone();
            async move { client.call(call).await }
        });
        match place {
            "parked" => parked(&bench, 1).await,
            _ => {
                while bench.load.in_flight() == 0 {
                    sleep(MS).await;
                }
            }
        }
        calling.abort();
        cancelled(&bench, place, 1).await;
        parked(&bench, 0).await;
    }
    assert_eq!(client.stats().cancels, 2);
    let echo = client.call(call("echo").payload("x")).await.unwrap();
    assert_eq!(echo.payload, "x");
    assert_eq!(
        client.stats().cancels,
        2,
        "a call that has ended is not given up"
    );
}

#[tokio::test]
async fn a_late_copy_of_a_cancelled_request_does_not_run() {
    let bench = Bench::start();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(bench.address).await.unwrap();
    let request = RpcHeader::request(ebpf_common::ids::FunctionId::of("stuck"), 7);
    let cancel = RpcHeader {
        flags: request.flags | flags::CANCEL,
        ..request
    };
    socket.send(&request.emit()).await.unwrap();
    while bench.load.in_flight() == 0 {
        sleep(MS).await;
    }
    // One for a request that nobody has made changes nothing.
    let stranger = RpcHeader {
        request_id: 8,
        ..cancel
    };
    socket.send(&stranger.emit()).await.unwrap();
    socket.send(&cancel.emit()).await.unwrap();
    cancelled(&bench, "running", 1).await;
    parked(&bench, 0).await;
    socket.send(&request.emit()).await.unwrap();
    while bench.metrics.replays() == 0 {
        sleep(MS).await;
    }
    assert_eq!(bench.runs.most_for_one_request(), 1);
    assert_eq!(bench.load.in_flight(), 0);
}
