//! Callers who go before the end.

use bytes::Bytes;
use ebpf_common::{
    ids::FunctionId,
    wire::{Kind, RpcHeader, Status, StreamPlace, flags},
};
use tokio::net::UdpSocket;
use warmpath_sdk::{Call, stream::Reply};
use worker::stream::{End, Refused, StreamLimits};

use super::{Stage, body, eventually, read_some};
use crate::bed::within;

/// Yields on and on, and says in the database how it ended.
const ENDLESS: &str = r#"
import time, warmpath
def f(request):
    if request.path == "/next":
        return "served"
    return pieces()
def pieces():
    try:
        while True:
            yield "again\n"
            time.sleep(0.005)
    finally:
        warmpath.db.put("{u}:ended", "politely")
"#;

/// The same of coroutines, which are ended while they wait.
const ENDLESS_ASGI: &str = r#"
import asyncio, warmpath
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"].endswith("/next"):
        return await send({"type": "http.response.body", "body": b"served"})
    await send({"type": "http.response.body", "body": b"again\n", "more_body": True})
    try:
        await asyncio.sleep(3600)
    finally:
        warmpath.db.put("{u}:ended", "politely")
"#;

async fn next(stage: &Stage) -> String {
    match stage.call_path("/next", None).await.unwrap() {
        Reply::Whole(reply) => String::from_utf8_lossy(&reply.payload[..6]).into_owned(),
        Reply::Stream(_) => panic!("a stream"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_whose_caller_hangs_up_is_told_and_its_instance_serves_on() {
    for (code, extra) in [
        (ENDLESS, "interface = 'http'"),
        (ENDLESS, "interface = 'http'\nconcurrency = 4"),
        (ENDLESS_ASGI, "interface = 'asgi'"),
        (ENDLESS_ASGI, "interface = 'asgi'\nconcurrency = 4"),
    ] {
        let stage = Stage::with(code, extra).await;
        let mut streamed = stage.stream("/").await;
        read_some(&mut streamed, 6).await;
        drop(streamed);
        stage.ended(End::HungUp).await;
        assert_eq!(stage.told("{u}:ended").await, "politely", "{extra}");
        stage.quiet().await;
        assert_eq!(next(&stage).await, "served", "{extra}");
        let snapshot = stage.bed.pool.snapshot();
        assert_eq!(
            (snapshot.cold_starts, snapshot.destroyed),
            (1, 0),
            "{extra}"
        );
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_listen_is_ended_with_its_instance() {
    let code = r#"
import time
def f(request):
    return pieces() if request.path == "/" else "served"
def pieces():
    yield "once"
    time.sleep(3600)
"#;
    let limits = StreamLimits {
        hangup_ms: 50,
        ..StreamLimits::default()
    };
    let stage = Stage::limited(code, "interface = 'http'", limits).await;
    let mut streamed = stage.stream("/").await;
    read_some(&mut streamed, 4).await;
    drop(streamed);
    stage.ended(End::HungUp).await;
    stage.quiet().await;
    assert_eq!(stage.bed.pool.snapshot().destroyed, 1);
    assert_eq!(next(&stage).await, "served");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_ends_its_handler() {
    let code = r#"
import warmpath
def f(request):
    try:
        while request.stream.read(1000): pass
        warmpath.db.put("{u}:ended", "as if it were whole")
    except ConnectionError as error:
        warmpath.db.put("{u}:ended", str(error))
        raise
"#;
    let stage = Stage::with(code, "interface = 'http'").await;
    let (sender, body) = body();
    let calling = stage.call(Some(body));
    let sending = async {
        sender
            .send(Bytes::from_static(b"half of it"))
            .await
            .unwrap();
        eventually("the body to be read", async || {
            (stage.desk.report().oldest.first()?.bytes_in == 10).then_some(())
        })
        .await;
    };
    // The future of the call is dropped, and with it body and connection.
    tokio::select! {
        called = calling => panic!("{called:?}"),
        () = sending => (),
    }
    assert_eq!(stage.told("{u}:ended").await, "the caller has gone");
    stage.ended(End::HungUp).await;
    stage.quiet().await;
    assert_eq!(stage.bed.pool.snapshot().destroyed, 0);
    stage.stop().await;
}

/// A client that asks for a stream, and does not come for it.
async fn ask(stage: &Stage, id: u64, more: u16) -> StreamPlace {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let header = RpcHeader {
        budget_ms: 60_000,
        ..RpcHeader::request(FunctionId::of("f"), id)
    };
    let header = RpcHeader {
        flags: header.flags | flags::STREAM | more,
        ..header
    };
    socket.send_to(&header.emit(), stage.vip).await.unwrap();
    let mut places = Vec::new();
    let mut buffer = [0; 2_000];
    while places.len() < 2 {
        let len = socket.recv(&mut buffer).await.unwrap();
        let (answer, payload) = RpcHeader::parse(&buffer[..len]).unwrap().unwrap();
        if answer.status == Status::Continue as u16 {
            continue;
        }
        assert_eq!((answer.kind, answer.status), (Kind::Response, 0));
        assert!(answer.has(flags::STREAM));
        places.push(StreamPlace::parse(payload).unwrap());
        // Whoever asks again gets the same ticket, and no second run.
        let again = RpcHeader {
            flags: header.flags | flags::RETRANSMIT,
            ..header
        };
        socket.send_to(&again.emit(), stage.vip).await.unwrap();
    }
    assert_eq!(places[0], places[1]);
    places[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_comes_keeps_no_instance() {
    let limits = StreamLimits {
        // Time to ask twice for the ticket.
        claim_ms: 1_500,
        ..StreamLimits::default()
    };
    let stage = Stage::limited(ENDLESS, "interface = 'http'", limits).await;
    for (id, more) in [(1, 0), (2, flags::BODY_FOLLOWS)] {
        let place = ask(&stage, id, more).await;
        stage.quiet().await;
        assert_eq!(stage.metrics.ends(End::Unclaimed), id);
        let late = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/stream/{}", place.address, place.ticket);
        let refused = late.post(url).send().await.unwrap();
        assert_eq!(refused.status(), 410);
        assert_eq!(stage.metrics.refusals(Refused::Expired), id);
    }
    // The one that ran was told; the one whose body was to come had not begun.
    assert_eq!(stage.told("{u}:ended").await, "politely");
    assert_eq!(next(&stage).await, "served");
    let snapshot = stage.bed.pool.snapshot();
    assert_eq!((snapshot.cold_starts, snapshot.destroyed), (1, 0));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_budget_holds_for_the_whole_stream() {
    let stage = Stage::with(ENDLESS, "interface = 'http'").await;
    let head = warmpath_sdk::http::RequestHead::of_call(0);
    let call = Call::new("f").http(&head, b"").unwrap();
    let budget = within(1);
    let Reply::Stream(mut streamed) = stage
        .client
        .stream(call.budget(budget), None)
        .await
        .unwrap()
    else {
        panic!("not a stream");
    };
    while let Ok(Some(_)) = streamed.body.piece().await {}
    stage.ended(End::Failed).await;
    stage.quiet().await;
    // It was not asked to end, it had had its time.
    assert_eq!(stage.bed.pool.snapshot().destroyed, 1);
    stage.stop().await;
}
