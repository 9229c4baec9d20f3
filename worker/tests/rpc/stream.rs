//! Streams from SDK to RPC server, over a scripted handler: tickets, and what lost packets make of them.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use ebpf_common::wire::Status;
use prometheus::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};
use warmpath_sdk::{Call, stream::Reply};
use worker::{
    pool::Outcome,
    stream::{Claim, Desk, End, Refused, StreamLimits, StreamMetrics, Streaming},
};

use crate::{
    STORM,
    bench::{Bench, MS, call, client_of},
    relay::Relay,
    status_of,
};

/// Gives its event back in two pieces; `broken` breaks off between them.
#[derive(Debug)]
pub(crate) struct Scripted(pub(crate) Bytes);

impl Streaming for Scripted {
    fn drive(
        self: Box<Self>,
        claim: Claim,
    ) -> Pin<Box<dyn Future<Output = (End, Outcome)> + Send>> {
        Box::pin(async move {
            let mut port = claim.open();
            port.begin(None).unwrap();
            let half = self.0.len() / 2;
            port.send(self.0.slice(..half)).await.unwrap();
            if self.0 == "broken" {
                return (End::Failed, Outcome::failed(Status::Crashed, "scripted"));
            }
            port.send(self.0.slice(half..)).await.unwrap();
            port.finish("cpu_ns=1".to_owned()).await;
            (End::Whole, Outcome::failed(Status::Ok, ""))
        })
    }

    fn dismiss(self: Box<Self>, _grace: Duration) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        Box::pin(async { Outcome::failed(Status::BudgetExceeded, "nobody came") })
    }
}

async fn open(bench: &Bench, limits: StreamLimits) -> (Arc<Desk>, StreamMetrics) {
    let metrics = StreamMetrics::register(&Registry::new()).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let (desk, serving) = worker::stream::listen(any, limits, metrics.clone())
        .await
        .unwrap();
    tokio::spawn(serving);
    bench.server.open_streams(Arc::clone(&desk));
    (desk, metrics)
}

/// What `text` over TCP is answered, to the end.
async fn said(desk: &Desk, text: &str) -> String {
    let mut stream = TcpStream::connect(desk.address()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn whole(client: &warmpath_sdk::Client, call: Call) -> Vec<u8> {
    let Reply::Stream(mut streamed) = client.stream(call, None).await.unwrap() else {
        panic!("not a stream");
    };
    let mut all = Vec::new();
    while let Some(piece) = streamed.body.piece().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    all
}

#[tokio::test]
async fn in_a_storm_each_stream_is_whole_and_its_handler_runs_once() {
    for seed in 1..=2 {
        let bench = Bench::start();
        let (_desk, metrics) = open(&bench, StreamLimits::default()).await;
        let relay = Relay::to(bench.address, STORM, seed).await;
        let client = client_of(relay.vip);
        let calls = (0..50u32).map(|number| {
            let client = client.clone();
            let payload = format!("stream {number}");
            tokio::spawn(async move {
                let got = whole(&client, call("streams").payload(payload.clone())).await;
                assert_eq!(got, payload.as_bytes());
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        assert_eq!(bench.runs.most_for_one_request(), 1, "seed {seed}");
        assert_eq!(metrics.ends(End::Whole), 50, "seed {seed}");
        assert_eq!(bench.load.in_flight(), 0);
    }
}

#[tokio::test]
async fn what_is_no_exchange_is_refused_and_counted() {
    let bench = Bench::start();
    let (desk, metrics) = open(&bench, StreamLimits::default()).await;
    let forged = "0123456789abcdef".repeat(2);
    for (request, code) in [
        (format!("POST /stream/{forged}"), "404"),
        (format!("GET /stream/{forged}"), "404"),
        ("POST /stream/".to_owned(), "404"),
        ("POST /stream/../../etc/passwd".to_owned(), "404"),
    ] {
        let answer = said(&desk, &format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}")),
            "{request}: {answer}"
        );
        assert!(!answer.contains("x-warmpath-status"), "{answer}");
    }
    assert_eq!(metrics.refusals(Refused::Unknown), 4);
    let answer = said(&desk, "\0\0\0\r\n\r\n").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    // Nothing of it is in the way of a good one.
    assert_eq!(
        whole(&bench.client(), call("streams").payload("good")).await,
        b"good"
    );
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_no_whole_one() {
    let bench = Bench::start();
    let (_desk, metrics) = open(&bench, StreamLimits::default()).await;
    let call = call("streams").payload("broken");
    let Reply::Stream(mut streamed) = bench.client().stream(call, None).await.unwrap() else {
        panic!("not a stream");
    };
    assert_eq!(streamed.body.piece().await.unwrap().unwrap(), "bro");
    assert!(streamed.body.piece().await.is_err());
    let deadline = Instant::now() + 10_000 * MS;
    while metrics.ends(End::Failed) != 1 {
        assert!(Instant::now() < deadline);
        sleep(MS).await;
    }
}

#[tokio::test]
async fn a_worker_without_streams_takes_no_body_that_follows() {
    let bench = Bench::start();
    let client = bench.client();
    // It has no desk: the reply is whole, and a body has nowhere to go.
    let Reply::Whole(reply) = client
        .stream(call("echo").payload("hi"), None)
        .await
        .unwrap()
    else {
        panic!("a stream of nobody");
    };
    assert_eq!(reply.payload, "hi");
    let body = http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(
        http_body_util::Full::new(Bytes::from_static(b"body")),
        |never: std::convert::Infallible| match never {},
    ));
    let refused = client.stream(call("echo"), Some(body)).await.unwrap_err();
    assert_eq!(refused.status(), Some(Status::BadPayload), "{refused}");
    // Who takes no streams is not told of any.
    assert_eq!(status_of(&client, call("raise")).await.0, Status::Exception);
}
