//! Runtimes that are no Python.

use bytes::Bytes;
use warmpath_sdk::stream::Reply;
use worker::stream::End;

use super::{Stage, body, read, read_some};

const NODE: &str = r#"
const warmpath = require('warmpath');
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function* events() {
  try {
    yield 'first';
    while ((await warmpath.db.get('{u}:go')) === null) await pause(5);
    yield Buffer.from('second');
    for (;;) { yield 'again'; await pause(5); }
  } finally {
    await warmpath.db.put('{u}:ended', 'politely');
  }
}

async function* upper(pieces) {
  for await (const piece of pieces) yield piece.toString().toUpperCase();
}

exports.f = async (request) => {
  if (request.path === '/events') return { status: 201, headers: { 'x-mine': '1' }, body: events() };
  if (request.path === '/whole') return { body: String((await request.bytes()).length) };
  return { body: upper(request.stream()) };
};
exports.f.streams = true;
"#;

async fn stage(extra: &str) -> Stage {
    let extra = format!("runtime = 'node'\nentry = 'f.js'\ninterface = 'http'\n{extra}");
    Stage::with(NODE, &extra).await
}

#[tokio::test(flavor = "multi_thread")]
async fn node_streams_both_ways_and_hears_of_a_hang_up() {
    for extra in ["", "concurrency = 4"] {
        let stage = stage(extra).await;
        let (sender, body) = body();
        let calling = stage.call(Some(body));
        let sending = async {
            sender.send(Bytes::from_static(b"first")).await.unwrap();
        };
        let (called, ()) = tokio::join!(calling, sending);
        let Ok(Reply::Stream(mut echo)) = called else {
            panic!("{extra}: {called:?}");
        };
        assert_eq!(read_some(&mut echo, 5).await, b"FIRST", "{extra}");
        sender.send(Bytes::from(vec![b'x'; 200_000])).await.unwrap();
        drop(sender);
        assert_eq!(read(*echo).await.unwrap(), vec![b'X'; 200_000], "{extra}");

        let mut events = stage.stream("/events").await;
        assert_eq!(events.head.status, 201);
        assert_eq!(read_some(&mut events, 5).await, b"first", "{extra}");
        stage.tell("{u}:go").await;
        read_some(&mut events, 6).await;
        drop(events);
        stage.ended(End::HungUp).await;
        assert_eq!(stage.told("{u}:ended").await, "politely");
        stage.quiet().await;
        let snapshot = stage.bed.pool.snapshot();
        assert_eq!(
            (snapshot.cold_starts, snapshot.destroyed),
            (1, 0),
            "{extra}"
        );
        stage.stop().await;
    }
}

/// A runtime of one page that knows nothing of streams: the example, which says what it was given.
const PERL: &str = include_str!("../../../examples/native-hello/f");

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_takes_no_streams_gets_its_body_whole_or_not_at_all() {
    let extra = "runtime = 'native'\nentry = 'f'";
    let stage = Stage::with(PERL, extra).await;
    for (bytes, works) in [(2_000, true), (70_000, false)] {
        let (sender, body) = body();
        let name = format!("{{\"name\":\"{}\"}}", "a".repeat(bytes));
        let sending = async {
            drop(sender.send(Bytes::from(name)).await);
            drop(sender);
        };
        let (called, ()) = tokio::join!(stage.call(Some(body)), sending);
        match called {
            Ok(Reply::Stream(reply)) if works => {
                let said = String::from_utf8(read(*reply).await.unwrap()).unwrap();
                assert!(said.contains(&"a".repeat(bytes)), "{said}");
            }
            Err(error) if !works => {
                let status = error.status().unwrap();
                assert_eq!(status, ebpf_common::wire::Status::BadPayload, "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    let snapshot = stage.bed.pool.snapshot();
    assert_eq!((snapshot.cold_starts, snapshot.destroyed), (1, 0));
    stage.stop().await;
}
