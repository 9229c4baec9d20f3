//! Handlers that wait: over the real RPC, with real instances, and the database of this host.

use std::{sync::Arc, time::Duration};

use db::{Op, Reply};
use ebpf_common::wire::Status;
use prometheus::Registry;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use warmpath_sdk::{Call, CallError, Client, ClientConfig};
use worker::{
    catalog::Functions,
    identity::Identity,
    load::Load,
    metrics::RpcMetrics,
    park::{ParkLimits, WakeReason},
    pool::Pool,
    rpc::{Parts, RpcLimits, Server},
};

use super::bed::{Bed, json as reply, text, within};

fn patience() -> Duration {
    within(30)
}

const WAITS: &str = r#"
import warmpath
def f(event, context):
    wake = context.wake
    if wake is None:
        seen = warmpath.db.cursor("{u}")
        return warmpath.wait("{u}", cursor=seen, until=event.get("until"), state={"seen": seen})
    value = warmpath.db.get("{u}:value")
    return [wake.reason, wake.cursor - wake.state["seen"], value and value.decode(), event]
"#;

/// The RPC server in front of the pool, which has room for one request at a time.
async fn serve(bed: &Bed) -> (Arc<Server<Arc<Pool>>>, Client) {
    let parts = Parts {
        invoker: Arc::clone(&bed.pool),
        functions: Arc::new(Functions::fixed(bed.store.catalog().await.unwrap())),
        identity: Arc::new(Identity::unassigned()),
        load: Arc::new(Load::new(1)),
        metrics: RpcMetrics::register(&Registry::new()).unwrap(),
        feeds: Arc::clone(&bed.feeds),
        park: ParkLimits::default(),
    };
    let server = Server::new(parts, RpcLimits::default());
    let (address, _task) = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = Client::connect(address, ClientConfig::default()).unwrap();
    (server, client)
}

fn call(
    client: &Client,
    event: &serde_json::Value,
) -> tokio::task::JoinHandle<Result<warmpath_sdk::Response, CallError>> {
    let call = Call::new("waits")
        .payload(event.to_string())
        .budget(patience());
    let client = client.clone();
    tokio::spawn(async move { client.call(call).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn many_handlers_wait_without_an_instance_and_one_write_wakes_them_all() {
    let bed = Bed::start().await;
    bed.deploy("waits", WAITS, "").await;
    let (server, client) = serve(&bed).await;
    let replies: Vec<_> = (0..50)
        .map(|number| call(&client, &json!({"number": number})))
        .collect();
    let deadline = Instant::now() + patience();
    while server.parked().0 < 50 {
        assert!(Instant::now() < deadline, "{:?}", server.parked());
        sleep(Duration::from_millis(1)).await;
    }
    let snapshot = bed.pool.snapshot();
    assert_eq!(
        (snapshot.busy, snapshot.idle),
        (0, 1),
        "one served all of them, and is free"
    );
    let write = Op::Put {
        key: b"{u}:value".to_vec(),
        value: b"news".to_vec(),
    };
    let (written, _) = bed.feeds.execute(write).await.unwrap();
    assert!(matches!(written, Reply::Written { .. }), "{written:?}");
    for (number, reply) in replies.into_iter().enumerate() {
        let reply = timeout(patience(), reply).await.unwrap().unwrap().unwrap();
        let reply: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(reply, json!(["feed", 1, "news", {"number": number}]));
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_wakes_a_handler_with_its_state() {
    let bed = Bed::start().await;
    bed.deploy("waits", WAITS, "").await;
    let (server, client) = serve(&bed).await;
    let begun = Instant::now();
    let woken = call(&client, &json!({"until": 0.3}))
        .await
        .unwrap()
        .unwrap();
    let woken: serde_json::Value = serde_json::from_slice(&woken.payload).unwrap();
    assert_eq!(woken, json!(["time", 0, null, {"until": 0.3}]));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(server.parked(), (0, 0));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_nothing_could_end_is_refused_where_it_stands() {
    let bed = Bed::start().await;
    let code = "import warmpath\ndef f(event):\n    return warmpath.wait(**event)\n";
    let function = bed.deploy("odd", code, "").await;
    for (event, message) in [
        (json!({}), "ValueError: nothing would end this wait"),
        (json!({"until": -1}), "ValueError: until is a number"),
        (
            json!({"key": "a", "slot": 1}),
            "ValueError: give a key or a slot",
        ),
        (
            json!({"cursor": 1, "until": 1}),
            "ValueError: a cursor says nothing",
        ),
    ] {
        let outcome = bed.call(&function, event).await;
        assert_eq!(outcome.status, Status::Exception);
        assert!(text(&outcome).starts_with(message), "{}", text(&outcome));
    }
    // What the library cannot know the worker refuses, and the next request is served.
    let outcome = bed
        .call(&function, json!({"slot": 99_999, "cursor": 0}))
        .await;
    assert_eq!(outcome.status, Status::BadReply, "{}", text(&outcome));
    let outcome = bed
        .call(&function, json!({"slot": 9, "state": "s", "until": 1.5}))
        .await;
    assert_eq!(outcome.status, Status::Continue);
    let wait = outcome.wait.unwrap();
    assert_eq!(
        (wait.until_ms, wait.state.as_deref()),
        (Some(1_500), Some("\"s\""))
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_woken_invocation_tells_its_handler_why() {
    let bed = Bed::start().await;
    let function = bed.deploy("waits", WAITS, "").await;
    let mut invocation = bed.invocation(&function, &json!({"n": 1}));
    invocation.wake = Some(worker::park::Wake {
        reason: WakeReason::Feed,
        cursor: db::Cursor(9),
        state: Some(r#"{"seen":4}"#.into()),
    });
    let outcome = bed.pool.invoke(invocation).await;
    assert_eq!(reply(&outcome), json!(["feed", 5, null, {"n": 1}]));
    bed.stop().await;
}
