//! How much may go through.

use bytes::Bytes;
use ebpf_common::wire::Status;
use warmpath_sdk::CallError;
use worker::stream::{End, StreamLimits};

use super::{Stage, body, read};

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_its_limit_is_the_callers_fault_and_the_handler_is_told() {
    let code = "def f(request):\n    return str(len(request.stream.read()))\n";
    let limits = StreamLimits {
        body_bytes_max: 100_000,
        ..StreamLimits::default()
    };
    let stage = Stage::limited(code, "interface = 'http'", limits).await;
    let (sender, body) = body();
    let sending = async { while sender.send(Bytes::from(vec![1; 30_000])).await.is_ok() {} };
    let (called, ()) = tokio::join!(stage.call(Some(body)), sending);
    match called {
        Err(CallError::Status {
            status: Status::BadPayload,
            message,
            ..
        }) => assert!(message.contains("body_bytes_max"), "{message}"),
        other => panic!("{other:?}"),
    }
    stage.quiet().await;
    assert_eq!(stage.bed.pool.snapshot().destroyed, 0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_beyond_its_limit_breaks_off() {
    let code = "def f(event):\n    while True: yield b'x' * 10000\n";
    let limits = StreamLimits {
        reply_bytes_max: 1_000_000,
        ..StreamLimits::default()
    };
    let stage = Stage::limited(code, "", limits).await;
    let came = read(stage.stream("/").await).await.unwrap_err();
    assert!(came <= 1_000_000, "{came} bytes came");
    stage.ended(End::Failed).await;
    stage.quiet().await;
    assert_eq!(stage.bed.pool.snapshot().destroyed, 1);
    stage.stop().await;
}
