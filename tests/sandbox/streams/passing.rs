//! What goes through as it should.

use std::sync::Arc;

use bytes::Bytes;
use ebpf_common::wire::Status;
use warmpath_sdk::{Call, CallError, stream::Reply};
use worker::stream::End;

use super::{Stage, body, read, read_some};
use crate::bed::within;

/// Says `first`, and `second` only once it is told to.
const SOURCES: [(&str, &str, &str); 6] = [
    (
        "a generator of events",
        "",
        r#"
import time, warmpath
def f(event):
    yield "first"
    while warmpath.db.get("{u}:go") is None: time.sleep(0.005)
    yield b"second"
"#,
    ),
    (
        "an async generator of events",
        "",
        r#"
import asyncio, warmpath
async def f(event):
    yield "first"
    while warmpath.db.get("{u}:go") is None: await asyncio.sleep(0.005)
    yield "second"
"#,
    ),
    (
        "a body of an http handler",
        "interface = 'http'",
        r#"
import time, warmpath
def pieces():
    yield "first"
    while warmpath.db.get("{u}:go") is None: time.sleep(0.005)
    yield "second"
def f(request):
    return 201, {"x-mine": "1"}, pieces()
"#,
    ),
    (
        "an iterable of WSGI",
        "interface = 'wsgi'",
        r#"
import time, warmpath
def app(environ, start_response):
    start_response("201 Created", [("X-Mine", "1")])
    yield b""
    yield b"first"
    while warmpath.db.get("{u}:go") is None: time.sleep(0.005)
    yield b"second"
"#,
    ),
    (
        "an application of ASGI",
        "interface = 'asgi'",
        r#"
import asyncio, warmpath
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 201, "headers": [(b"X-Mine", b"1")]})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    while warmpath.db.get("{u}:go") is None: await asyncio.sleep(0.005)
    await send({"type": "http.response.body", "body": b"second", "more_body": True})
    await send({"type": "http.response.body"})
"#,
    ),
    (
        "an iterator of several requests at a time",
        "concurrency = 4",
        r#"
import time, warmpath
class Pieces:
    left = ["first", "second"]
    def __iter__(self): return self
    def __next__(self):
        if not self.left: raise StopIteration
        if len(self.left) == 1:
            while warmpath.db.get("{u}:go") is None: time.sleep(0.005)
        return self.left.pop(0)
def f(event):
    return Pieces()
"#,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_first_piece_is_here_while_the_handler_has_not_made_the_second() {
    for (what, extra, code) in SOURCES {
        let stage = Stage::with(code, extra).await;
        let mut streamed = stage.stream("/").await;
        assert_eq!(read_some(&mut streamed, 1).await, b"first", "{what}");
        let report = stage.desk.report();
        assert_eq!((report.open, report.oldest[0].bytes_out), (1, 5), "{what}");
        // Only now can it go on: nothing but this order of events lets the test get here.
        stage.tell("{u}:go").await;
        let head = streamed.head.clone();
        assert_eq!(read(streamed).await.unwrap(), b"second", "{what}");
        let is_mine = head.headers.iter().any(|(name, _)| name == "x-mine");
        let expected = if is_mine { 201 } else { 200 };
        assert_eq!(head.status, expected, "{what}: {head:?}");
        assert_eq!(is_mine, extra.contains("interface"), "{what}: {head:?}");
        stage.ended(End::Whole).await;
        stage.quiet().await;
        assert_eq!(stage.bed.pool.snapshot().destroyed, 0, "{what}");
        stage.stop().await;
    }
}

/// Gives back what it gets, as it gets it.
const ECHOES: [(&str, &str); 4] = [
    (
        "interface = 'http'",
        "def f(request):\n    return request.stream.pieces()\n",
    ),
    (
        "interface = 'wsgi'",
        r#"
def app(environ, start_response):
    start_response("200 OK", [])
    while piece := environ["wsgi.input"].read1(10000):
        yield piece
"#,
    ),
    (
        "interface = 'asgi'",
        r#"
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})
"#,
    ),
    (
        "interface = 'http'\nconcurrency = 2",
        r#"
async def f(request):
    async def pieces():
        async for piece in request.stream:
            yield piece
    return pieces()
"#,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_go_in_and_out_at_the_same_time() {
    const PIECES: usize = 100;
    const BYTES: usize = 100_000;
    let piece = |number: usize| -> Vec<u8> {
        let byte = move |at: usize| (at * 7 + number * 13) as u8;
        (0..BYTES).map(byte).collect()
    };
    for (extra, code) in ECHOES {
        let stage = Stage::with(code, extra).await;
        let (sender, body) = body();
        let calling = stage.call(Some(body));
        let sending = async {
            sender.send(Bytes::from(piece(0))).await.unwrap();
        };
        let (called, ()) = tokio::join!(calling, sending);
        let Ok(Reply::Stream(mut streamed)) = called else {
            panic!("{extra}: {called:?}");
        };
        // The first piece comes back while the others are not sent yet: neither side waits for the other's end.
        assert!(read_some(&mut streamed, BYTES).await == piece(0), "{extra}");
        let sending = tokio::spawn(async move {
            for number in 1..PIECES {
                sender.send(Bytes::from(piece(number))).await.unwrap();
            }
        });
        let rest = read(*streamed).await.unwrap();
        sending.await.unwrap();
        let expected: Vec<u8> = (1..PIECES).flat_map(piece).collect();
        assert!(rest == expected, "{extra}: {} bytes", rest.len());
        stage.ended(End::Whole).await;
        let bill = stage.bed.pool.bills(None);
        let line = &bill.lines[0];
        let bytes = (PIECES * BYTES) as u64;
        assert_eq!(
            (line.sum.bytes_in, line.sum.bytes_out),
            (bytes, bytes),
            "{extra}"
        );
        stage.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_follows_may_have_a_short_answer_or_none() {
    let code = r#"
import hashlib
def f(request):
    if request.path == "/raise":
        request.stream.read(1)
        raise ValueError("enough")
    if request.path == "/unread":
        return 202, {}, "no, thanks"
    return {"length": len(request.body), "digest": hashlib.sha256(request.body).hexdigest()}
"#;
    let stage = Stage::with(code, "interface = 'http'").await;
    let send = async |path: &str| {
        let (sender, body) = body();
        let calling = stage.call_path(path, Some(body));
        let sending = async {
            // Whoever has answered needs no more of it.
            while sender.send(Bytes::from(vec![7; 50_000])).await.is_ok() && path == "/unread" {}
            drop(sender);
        };
        tokio::join!(calling, sending).0
    };
    let Ok(Reply::Stream(whole)) = send("/").await else {
        panic!("it was answered in its exchange");
    };
    let bill = &whole
        .head
        .headers
        .iter()
        .find(|(name, _)| name == "x-warmpath-bill");
    assert!(bill.unwrap().1.contains("bytes_in=5"), "{bill:?}");
    let said: serde_json::Value = serde_json::from_slice(&read(*whole).await.unwrap()).unwrap();
    assert_eq!(said["length"], 50_000);
    let Ok(Reply::Stream(unread)) = send("/unread").await else {
        panic!("it was answered before its body was there");
    };
    assert_eq!(unread.head.status, 202);
    assert_eq!(read(*unread).await.unwrap(), b"no, thanks");
    match send("/raise").await {
        Err(CallError::Status {
            status: Status::Exception,
            message,
            http: true,
            ..
        }) => assert_eq!(message, "ValueError: enough"),
        other => panic!("{other:?}"),
    }
    stage.quiet().await;
    assert_eq!(
        stage.bed.pool.snapshot().cold_starts,
        1,
        "one instance for all"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_stream_gets_it_whole_if_a_message_has_room() {
    let code = "def f(event):\n    for _ in range(event): yield 'x' * 1000\n";
    let stage = Stage::with(code, "").await;
    let call = |count: u32| Call::new("f").payload(count.to_string()).budget(within(30));
    let whole = stage.client.call(call(60)).await.unwrap();
    assert_eq!(whole.payload.len(), 60_000);
    let refused = stage.client.call(call(70)).await.unwrap_err();
    assert_eq!(refused.status(), Some(Status::Exception), "{refused}");
    assert!(refused.to_string().contains("takes no stream"), "{refused}");
    // Nor does a stream of nothing need an exchange.
    let empty = stage.client.stream(call(0), None).await.unwrap();
    assert!(matches!(empty, Reply::Whole(whole) if whole.payload.is_empty()));
    assert_eq!(stage.metrics.ends(End::Whole), 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_reply_of_a_known_length_needs_no_exchange() {
    let code = r#"
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "6")])
    yield b"abc"
    yield b"def"
"#;
    let stage = Stage::with(code, "interface = 'wsgi'").await;
    let reply = stage.call(None).await.unwrap();
    let Reply::Whole(whole) = reply else {
        panic!("{reply:?}");
    };
    assert!(whole.http && whole.payload.starts_with(b"abcdef"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_its_own_handler_and_no_neighbour() {
    // Far more than all buffers on the way hold.
    let code = r#"
import warmpath
def f(event):
    if event == 1:
        return "quick"
    return pieces()
def pieces():
    for number in range(2000):
        yield b"x" * 65536
        if number % 100 == 0: warmpath.db.put(f"{{u}}:{number}", "1")
    warmpath.db.put("{u}:all", "1")
"#;
    let stage = Arc::new(Stage::with(code, "concurrency = 4").await);
    let call = |event: &'static str| Call::new("f").payload(event).budget(within(60));
    let Reply::Stream(mut slow) = stage.client.stream(call("0"), None).await.unwrap() else {
        panic!("not a stream");
    };
    read_some(&mut slow, 1).await;
    for _ in 0..100 {
        let quick = stage.client.stream(call("1"), None).await.unwrap();
        assert!(matches!(quick, Reply::Whole(reply) if reply.payload == "\"quick\""));
    }
    let report = stage.desk.report();
    let sent = report.oldest[0].bytes_out;
    assert!(
        sent < 100 << 20,
        "{sent} bytes left for a reader who takes none"
    );
    assert!(read(*slow).await.unwrap().len() > 130_000_000);
    stage.told("{u}:all").await;
    assert_eq!(stage.bed.pool.snapshot().cold_starts, 1);
    Arc::into_inner(stage).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn even_a_few_bytes_are_echoed_before_the_body_goes_on() {
    let code = "def f(request):\n    return (piece.upper() for piece in request.stream.pieces())\n";
    let stage = Stage::with(code, "interface = 'http'").await;
    let (sender, body) = body();
    let calling = stage.call(Some(body));
    let sending = async {
        sender.send(Bytes::from_static(b"first")).await.unwrap();
    };
    let (called, ()) = tokio::join!(calling, sending);
    let Ok(Reply::Stream(mut streamed)) = called else {
        panic!("{called:?}");
    };
    assert_eq!(read_some(&mut streamed, 5).await, b"FIRST");
    drop(sender);
    assert_eq!(read(*streamed).await.unwrap(), b"");
    stage.stop().await;
}
