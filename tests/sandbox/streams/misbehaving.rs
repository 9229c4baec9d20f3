//! Handlers that fail in the middle, or lie.

use ebpf_common::wire::{Fault, Status};
use warmpath_sdk::{CallError, stream::Reply};
use worker::stream::End;

use super::{Stage, read};

/// What each path does after its first piece; the frames are written past the library.
const BAD: &str = r#"
import os, struct, time

def packed(kind, meta=b"", data=b"", length=None):
    return struct.pack(">BII", kind, len(meta), len(data) if length is None else length) + meta + data
def frame(*what): os.write(3, packed(*what))

def raises(): raise ValueError("in the middle")
def exits(): os._exit(3)
def stays(): time.sleep(3600)
def ends_twice():
    os.write(3, packed(4) + packed(4)); time.sleep(3600)
def goes_on_after_its_end():
    os.write(3, packed(4, b"", b"the last") + packed(9, b"", b"more")); time.sleep(3600)
def sends_too_long_a_chunk(): frame(9, b"", b"", 65537); time.sleep(3600)
def waits(): frame(8, b'{"until_ms":1}'); time.sleep(3600)
def asks_for_a_body_that_is_none(): frame(12); time.sleep(3600)
def goes_beyond_its_window():
    # More than all buffers of the connection hold: nobody reads this.
    for _ in range(1000): frame(9, b"", b"x" * 65536)
def sends_garbage(): os.write(3, b"GET / HTTP/1.1\r\n\r\n")

def f(request):
    if request.path == "/fine":
        return "fine"
    if request.path == "/early":
        return early()
    if request.path == "/head":
        return 200, {"x": "1\r\nset-cookie: a=b"}, pieces("raises")
    return pieces(request.path[1:])

def early():
    raise KeyError("before the first")
    yield "never"

def pieces(what):
    yield "first"
    globals()[what]()
    yield "last"
"#;

async fn is_fine(stage: &Stage) -> bool {
    let reply = stage.call_path("/fine", None).await.unwrap();
    matches!(reply, Reply::Whole(reply) if reply.payload.starts_with(b"fine"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_in_the_middle_breaks_the_body_off_and_the_next_request_is_served() {
    let stage = Stage::with(BAD, "interface = 'http'").await;
    let mut destroyed = 0;
    for (bad, ends_instance) in [
        ("raises", 0),
        ("exits", 1),
        ("sends_too_long_a_chunk", 1),
        ("waits", 1),
        ("asks_for_a_body_that_is_none", 1),
        ("goes_beyond_its_window", 1),
        ("sends_garbage", 1),
    ] {
        let before = stage.metrics.ends(End::Failed);
        let streamed = stage.stream(&format!("/{bad}")).await;
        // Whoever does not read is not what breaks it.
        super::eventually(bad, async || {
            (stage.metrics.ends(End::Failed) > before).then_some(())
        })
        .await;
        assert!(read(streamed).await.is_err(), "{bad} looked whole");
        stage.quiet().await;
        destroyed += ends_instance;
        assert_eq!(stage.bed.pool.snapshot().destroyed, destroyed, "{bad}");
        assert!(is_fine(&stage).await, "after {bad}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_end_ends_the_instance_and_not_the_stream() {
    let stage = Stage::with(BAD, "interface = 'http'").await;
    for (lie, whole) in [
        ("/ends_twice", &b"first"[..]),
        ("/goes_on_after_its_end", b"firstthe last"),
    ] {
        let streamed = stage.stream(lie).await;
        assert_eq!(read(streamed).await.unwrap(), whole, "{lie}");
        stage.quiet().await;
        // It may be the very next request that finds out.
        assert!(is_fine(&stage).await, "after {lie}");
    }
    assert_eq!(stage.bed.pool.snapshot().cold_starts, 3);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_before_the_first_piece_is_a_plain_failure() {
    let stage = Stage::with(BAD, "interface = 'http'").await;
    for (path, status) in [("/early", Status::Exception), ("/head", Status::BadReply)] {
        match stage.call_path(path, None).await {
            Err(CallError::Status { status: said, .. }) => {
                assert_eq!((said, said.fault()), (status, Fault::Function), "{path}");
            }
            other => panic!("{path}: {other:?}"),
        }
        assert!(is_fine(&stage).await, "after {path}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_own_time_ends_a_stream() {
    let stage = Stage::with(BAD, "interface = 'http'\ntimeout_ms = 500").await;
    let streamed = stage.stream("/stays").await;
    assert_eq!(read(streamed).await, Err(5));
    stage.ended(End::Failed).await;
    stage.quiet().await;
    assert_eq!(stage.bed.pool.snapshot().destroyed, 1);
    assert!(is_fine(&stage).await);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_of_one_stream_ends_its_neighbours_and_the_blame_is_its_own() {
    let code = r#"
import os, struct, time
def frame(kind, meta, data=b""):
    os.write(3, struct.pack(">BII", kind, len(meta), len(data)) + meta + data)
def f(request):
    return pieces(request.path)
def pieces(path):
    yield "first"
    if path == "/lies":
        frame(9, b'{"call":77}', b"for nobody")
    time.sleep(3600)
    yield "never"
"#;
    let stage = Stage::with(code, "interface = 'http'\nconcurrency = 2").await;
    let neighbour = stage.stream("/").await;
    let liar = stage.stream("/lies").await;
    assert_eq!(read(liar).await, Err(5));
    assert_eq!(read(neighbour).await, Err(5), "nobody knows whose it was");
    stage.quiet().await;
    assert_eq!(stage.metrics.ends(End::Failed), 2);
    stage.stop().await;
}
