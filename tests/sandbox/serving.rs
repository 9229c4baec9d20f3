//! The ordinary life of functions: cold, warm, sessions, database, versions, eviction.

use std::{sync::Arc, time::Duration};

use db::Op;
use ebpf_common::{ids::FunctionId, wire::Status};
use serde_json::json;
use worker::pool::PoolSnapshot;

use super::bed::{Bed, json as reply, slower, text, within};

const HELLO: &str = "def f(event):\n    return {'hello': (event or {}).get('name')}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_cold_once_and_warm_after_that() {
    let bed = Bed::start().await;
    let function = bed.deploy("hello", HELLO, "").await;
    let mut warm = bed.pool.warm();
    let first = bed.call(&function, json!({"name": "Ada"})).await;
    assert_eq!(reply(&first), json!({"hello": "Ada"}));
    assert!(first.usage.cold && first.usage.wall_us > 0);
    warm.wait_for(|warm| *warm == [FunctionId::of("hello")])
        .await
        .unwrap();
    for _ in 0..10 {
        let next = bed.call(&function, json!({"name": "Bob"})).await;
        assert_eq!(reply(&next), json!({"hello": "Bob"}));
        assert!(!next.usage.cold);
        assert_eq!(next.usage.instance, first.usage.instance);
    }
    let snapshot = bed.pool.snapshot();
    assert_eq!(
        (snapshot.idle, snapshot.busy, snapshot.cold_starts),
        (1, 0, 1)
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_same_time_get_instances_of_their_own() {
    let bed = Bed::start().await;
    let code = "import time\ndef f(event):\n    time.sleep(1)\n    return 1\n";
    let function = bed.deploy("slow", code, "").await;
    let bed = Arc::new(bed);
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (bed, function) = (Arc::clone(&bed), Arc::clone(&function));
            tokio::spawn(async move { bed.call(&function, json!(null)).await })
        })
        .collect();
    let mut instances = Vec::new();
    for call in calls {
        let outcome = call.await.unwrap();
        assert_eq!(reply(&outcome), json!(1));
        instances.push(outcome.usage.instance);
    }
    instances.sort_unstable();
    instances.dedup();
    assert!(instances.len() >= 4, "{instances:?}");
    Arc::into_inner(bed).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exceptions_are_the_functions_fault_and_leave_the_instance_alive() {
    let bed = Bed::start().await;
    let code = "def f(event):\n    if event: raise ValueError('no ' + event)\n    return {1, 2}\n";
    let function = bed.deploy("fails", code, "").await;
    let raised = bed.call(&function, json!("way")).await;
    assert_eq!(
        (raised.status, text(&raised).as_str()),
        (Status::Exception, "ValueError: no way")
    );
    let unserialisable = bed.call(&function, json!(null)).await;
    assert_eq!(unserialisable.status, Status::Exception);
    assert!(
        text(&unserialisable).starts_with("TypeError: "),
        "{}",
        text(&unserialisable)
    );
    assert_eq!(unserialisable.usage.instance, raised.usage.instance);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_cannot_be_loaded_says_why() {
    let bed = Bed::start().await;
    let broken = bed.deploy("broken", "def f(event)\n", "").await;
    let outcome = bed.call(&broken, json!(null)).await;
    assert_eq!(outcome.status, Status::Exception);
    assert!(text(&outcome).contains("SyntaxError"), "{}", text(&outcome));
    let empty = bed.deploy("empty", "g = 1\n", "").await;
    let outcome = bed.call(&empty, json!(null)).await;
    assert!(
        text(&outcome).contains("defines no function f"),
        "{}",
        text(&outcome)
    );
    let absent = bed
        .deploy("absent", "import numpy_that_is_not_there\n", "")
        .await;
    let outcome = bed.call(&absent, json!(null)).await;
    assert!(
        text(&outcome).contains("ModuleNotFoundError"),
        "{}",
        text(&outcome)
    );
    assert_eq!(bed.pool.snapshot().functions, 0);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_meet_the_same_instance() {
    let bed = Arc::new(Bed::start_with(|config| config.limits.scale_up_after_us = 500).await);
    let code = r#"
import time, warmpath
seen = {}
def f(event, context):
    time.sleep(SECONDS)
    assert context is warmpath.context
    seen[context.session] = seen.get(context.session, 0) + 1
    return [seen[context.session], context.instance, context.session]
"#;
    // Long enough for another instance to be there before all have been served by the first.
    let code = code.replace("SECONDS", &format!("0.002 * {}", slower()));
    let function = bed.deploy("session", &code, "affinity = \"session\"").await;
    let sessions: Vec<_> = (0..20_u64)
        .map(|session| {
            let (bed, function) = (Arc::clone(&bed), Arc::clone(&function));
            tokio::spawn(async move {
                let mut instances = Vec::new();
                for round in 1..=10 {
                    let mut invocation = bed.invocation(&function, &json!(null));
                    invocation.session = Some(session);
                    let outcome = bed.pool.invoke(invocation).await;
                    let instance = outcome.usage.instance;
                    assert_eq!(reply(&outcome), json!([round, instance, session]));
                    instances.push(instance);
                }
                instances
            })
        })
        .collect();
    let mut all = Vec::new();
    for session in sessions {
        all.extend(session.await.unwrap());
    }
    all.sort_unstable();
    all.dedup();
    assert!(all.len() > 1, "more than one instance took part");
    Arc::into_inner(bed).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_use_the_database() {
    let bed = Bed::start().await;
    let code = r#"
import warmpath
from warmpath import db
def f(event):
    assert db.get("nothing") is None
    db.put("{u}:a", "1")
    db.put(b"{u}:b", b"\x00\xff")
    won = db.compare_and_set("{u}:a", "1", "2")
    lost = db.compare_and_set("{u}:a", "1", "3")
    new = db.compare_and_set("{u}:c", None, "c" * 100_000)
    rows = db.scan("{u}:")
    page = db.scan("{u}:", limit=1, after="{u}:a")
    db.delete("{u}:b")
    try:
        db.get("")
        error = None
    except db.DbError as refused:
        error = [refused.kind, refused.retryable]
    try:
        db.scan("untagged")
    except db.DbError as refused:
        tag = refused.kind
    return {
        "a": db.get("{u}:a").decode(), "b": db.get("{u}:b"), "won": won, "lost": lost, "new": new,
        "rows": [[key.decode(), len(value)] for key, value in rows],
        "page": [key.decode() for key, _ in page],
        "error": error, "tag": tag,
    }
"#;
    let function = bed.deploy("data", code, "").await;
    let found = bed.reply(&function, json!(null)).await;
    let expected = json!({
        "a": "2", "b": null, "won": true, "lost": false, "new": true,
        "rows": [["{u}:a", 1], ["{u}:b", 2], ["{u}:c", 100_000]],
        "page": ["{u}:b"],
        "error": ["key_length", false],
        "tag": "scan_without_tag",
    });
    assert_eq!(found, expected);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_may_speak_bytes() {
    let bed = Bed::start().await;
    let code = "def f(event):\n    return event[::-1]\n";
    let function = bed.deploy("bytes", code, "payload = \"bytes\"").await;
    let mut invocation = bed.invocation(&function, &json!(null));
    invocation.payload = vec![0, 1, 255].into();
    assert_eq!(&bed.pool.invoke(invocation).await.payload[..], [255, 1, 0]);
    let most = vec![7; ebpf_common::limits::MAX_MESSAGE];
    let mut invocation = bed.invocation(&function, &json!(null));
    invocation.payload = most.clone().into();
    assert_eq!(&bed.pool.invoke(invocation).await.payload[..], most);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_moves_brings_the_new_code() {
    let bed = Bed::start().await;
    let old = bed
        .deploy("moving", "def f(event):\n    return 1\n", "")
        .await;
    assert_eq!(bed.reply(&old, json!(null)).await, json!(1));
    let new = bed
        .deploy("moving", "def f(event):\n    return 2\n", "")
        .await;
    assert_eq!(old.id, new.id);
    assert_eq!(bed.reply(&new, json!(null)).await, json!(2));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_are_ended() {
    let bed = Bed::start_with(|config| config.limits.idle_timeout_ms = 100).await;
    let function = bed.deploy("hello", HELLO, "").await;
    bed.reply(&function, json!({})).await;
    let is_gone = |snapshot: PoolSnapshot| {
        snapshot.evictions == 1 && snapshot.memory_mb == 0 && snapshot.idle == 0
    };
    until(&bed, is_gone).await;
    bed.pool.warm().wait_for(Vec::is_empty).await.unwrap();
    assert_eq!(bed.pool.snapshot().evictions, 1);
    assert!(bed.call(&function, json!({})).await.usage.cold);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_made_room_for_by_ending_who_is_idle() {
    let bed = Bed::start_with(|config| config.limits.memory_mb = 128).await;
    let extra = "memory_mb = 64";
    let a = bed.deploy("a", HELLO, extra).await;
    let b = bed.deploy("b", HELLO, extra).await;
    let c = bed.deploy("c", HELLO, extra).await;
    for function in [&a, &b, &c] {
        bed.reply(function, json!({})).await;
        assert!(bed.pool.snapshot().memory_mb <= 128);
    }
    assert_eq!(bed.pool.snapshot().evicted_for_memory, 1);
    assert!(!bed.call(&c, json!({})).await.usage.cold);
    let big = bed.deploy("big", HELLO, "memory_mb = 256").await;
    let outcome = bed.call(&big, json!({})).await;
    assert_eq!(outcome.status, Status::SandboxUnavailable);
    assert!(
        text(&outcome).contains("needs 256 MB"),
        "{}",
        text(&outcome)
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_overload_and_a_long_wait_too() {
    let bed = Bed::start_with(|config| {
        config.limits.queue_len_max = 1;
        config.limits.instances_per_function = 1;
    })
    .await;
    let code = r#"
import time
from warmpath import db
def f(event):
    while event == "hold" and db.get("{gate}:go") is None: time.sleep(0.001)
    return 1
"#;
    let function = bed.deploy("one", code, "timeout_ms = 9000").await;
    assert_eq!(bed.reply(&function, json!(null)).await, json!(1));
    let busy = bed.invocation(&function, &json!("hold"));
    let mut waits = bed.invocation(&function, &json!(null));
    // One of its nine seconds is left.
    waits.arrived -= within(8);
    let refused = bed.invocation(&function, &json!(null));
    let (busy, (waits, refused)) = tokio::join!(bed.pool.invoke(busy), async {
        until(&bed, |pool| pool.busy == 1).await;
        let outcomes = tokio::join!(bed.pool.invoke(waits), async {
            until(&bed, |pool| pool.waiting == 1).await;
            bed.pool.invoke(refused).await
        });
        let put = Op::Put {
            key: b"{gate}:go".to_vec(),
            value: b"1".to_vec(),
        };
        bed.feeds.execute(put).await.unwrap();
        outcomes
    });
    assert_eq!(busy.status, Status::Ok);
    assert_eq!(
        (waits.status, refused.status),
        (Status::Overloaded, Status::Overloaded)
    );
    // It was not kept until it was too late.
    assert!(refused.usage.wall_us < waits.usage.wall_us);
    bed.stop().await;
}

async fn until(bed: &Bed, stands: impl Fn(PoolSnapshot) -> bool) {
    let waiting = async {
        while !stands(bed.pool.snapshot()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let done = tokio::time::timeout(within(20), waiting).await;
    assert!(done.is_ok(), "{:?}", bed.pool.snapshot());
}
