//! Several requests at a time in one instance.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_common::wire::{Fault, Status};
use serde_json::{Value, json};
use store::CatalogEntry;
use tokio::task::JoinHandle;
use worker::pool::Outcome;

use super::bed::{Bed, json as reply, text, within};

/// Sends requests at the same time.
fn all(
    bed: &Arc<Bed>,
    function: &Arc<CatalogEntry>,
    events: impl IntoIterator<Item = Value>,
) -> Vec<JoinHandle<Outcome>> {
    let start = |event| {
        let (bed, function) = (Arc::clone(bed), Arc::clone(function));
        tokio::spawn(async move { bed.call(&function, event).await })
    };
    events.into_iter().map(start).collect()
}

async fn outcomes(calls: Vec<JoinHandle<Outcome>>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(call.await.unwrap());
    }
    outcomes
}

async fn stop(bed: Arc<Bed>) {
    Arc::into_inner(bed).unwrap().stop().await;
}

/// A handler that gets somewhere only when eight requests are in it at the same time.
const MEETS: &str = r#"
import threading, warmpath
meeting = threading.Barrier(8)
def f(event, context):
    before = (context.request_id, context.session)
    meeting.wait(timeout=20)
    assert (warmpath.context.request_id, warmpath.context.session) == before
    return [event, context.instance, context.request_id, threading.current_thread() is threading.main_thread()]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn requests_meet_in_one_instance_each_with_its_own_context() {
    let bed = Arc::new(Bed::start().await);
    let extra = "concurrency = 8\npids = 1\ntimeout_ms = 30000";
    let function = bed.deploy("meets", MEETS, extra).await;
    for _ in 0..3 {
        let calls = all(&bed, &function, (0..8).map(|n| json!(n)));
        let mut ids = Vec::new();
        for (n, outcome) in outcomes(calls).await.into_iter().enumerate() {
            let found = reply(&outcome);
            assert_eq!(found[0], json!(n), "its own event");
            assert_eq!(found[1], json!(outcome.usage.instance));
            ids.push(found[2].as_u64().unwrap());
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 8, "each saw its own request");
    }
    let snapshot = bed.pool.snapshot();
    assert_eq!((snapshot.cold_starts, snapshot.idle), (1, 1));
    stop(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_that_are_async_share_an_event_loop() {
    let bed = Arc::new(Bed::start().await);
    let code = r#"
import asyncio, threading, warmpath
inside, together = 0, asyncio.Event()
async def f(event, context):
    global inside
    own = context.request_id
    inside += 1
    if inside == 6: together.set()
    await asyncio.wait_for(together.wait(), 20)
    stored = await asyncio.to_thread(lambda: (warmpath.db.put(f"{{u}}:{own}", str(own)), warmpath.db.get(f"{{u}}:{own}"))[1])
    assert warmpath.context.request_id == own
    if event == "raise": raise KeyError(own)
    return [stored.decode(), own, threading.active_count() < 20]
"#;
    let extra = "concurrency = 6\ntimeout_ms = 30000";
    let function = bed.deploy("tasks", code, extra).await;
    let mut events = vec![json!(null); 5];
    events.push(json!("raise"));
    let mut outcomes = outcomes(all(&bed, &function, events)).await;
    let raised = outcomes.pop().unwrap();
    assert_eq!(raised.status, Status::Exception);
    assert!(text(&raised).starts_with("KeyError"), "{}", text(&raised));
    for outcome in outcomes {
        let found = reply(&outcome);
        assert_eq!(found[0], json!(found[1].to_string()));
        assert_eq!(found[2], json!(true));
    }
    assert_eq!(bed.pool.snapshot().cold_starts, 1);
    stop(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_async_handler_needs_no_concurrency() {
    let bed = Bed::start().await;
    let code =
        "import asyncio\nasync def f(event):\n    await asyncio.sleep(0.001)\n    return event\n";
    let function = bed.deploy("one", code, "").await;
    for n in 0..3 {
        assert_eq!(bed.reply(&function, json!(n)).await, json!(n));
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn database_replies_reach_the_call_that_asked() {
    let bed = Arc::new(Bed::start().await);
    let code = r#"
from warmpath import db
def f(event):
    for n in range(50):
        db.put(f"{{{event}}}", f"{event}-{n}")
        found = db.get(f"{{{event}}}").decode()
        assert found == f"{event}-{n}", found
    return event
"#;
    let extra = "concurrency = 16\ntimeout_ms = 60000";
    let function = bed.deploy("data", code, extra).await;
    let calls = all(&bed, &function, (0..16).map(|n| json!(n)));
    for (n, outcome) in outcomes(calls).await.iter().enumerate() {
        assert_eq!(reply(outcome), json!(n));
    }
    stop(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_filled_before_another_is_started() {
    let bed = Arc::new(Bed::start().await);
    let code = "import time\ndef f(event):\n    time.sleep(event)\n    return 1\n";
    let extra = "concurrency = 10\ntimeout_ms = 30000";
    let function = bed.deploy("fills", code, extra).await;
    bed.reply(&function, json!(0)).await;
    let calls = all(&bed, &function, (0..10).map(|_| json!(0.5)));
    for outcome in outcomes(calls).await {
        assert_eq!(outcome.status, Status::Ok);
    }
    assert_eq!(bed.pool.snapshot().cold_starts, 1);
    let calls = all(&bed, &function, (0..20).map(|_| json!(0.5)));
    for outcome in outcomes(calls).await {
        assert_eq!(outcome.status, Status::Ok);
    }
    assert_eq!(bed.pool.snapshot().cold_starts, 2);
    stop(bed).await;
}

/// Four requests run; then one does harm. What it gets, and what the others get.
async fn harm(code: &str) -> (Outcome, Vec<Outcome>) {
    let bed = Arc::new(Bed::start().await);
    let code = format!(
        "import os, threading, time\nfrom warmpath import _wire\nmeeting = threading.Barrier(5)\n\
         def send(call, kind=b'\\x04'):\n    \
             meta = b'{{\"call\": %d}}' % call\n    \
             os.write(3, kind + len(meta).to_bytes(4, 'big') + bytes(4) + meta)\n\
         def f(event):\n    if event is None: return 'fine'\n    meeting.wait(timeout=20)\n    \
             if event != 'harm': time.sleep(60)\n    {code}\n"
    );
    let extra = "concurrency = 5\ntimeout_ms = 30000";
    let function = bed.deploy("harm", &code, extra).await;
    let victims = all(&bed, &function, (0..4).map(|n| json!(n)));
    // The victims' time begins now; the harm is done well before it ends.
    let started = Instant::now();
    let mut harmful = bed.invocation(&function, &json!("harm"));
    harmful.caller_deadline = Some(tokio::time::Instant::now() + within(5));
    let harmful = bed.pool.invoke(harmful).await;
    let victims = outcomes(victims).await;
    assert!(started.elapsed() < within(25));
    let next = bed.call(&function, json!(null)).await;
    assert_eq!(reply(&next), json!("fine"));
    assert!(next.usage.cold && next.usage.instance != harmful.usage.instance);
    stop(bed).await;
    (harmful, victims)
}

fn lost(outcome: &Outcome) -> bool {
    let status = outcome.status;
    status == Status::InstanceLost && status.fault() == Fault::Function && status.is_retryable()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_too_long_ends_the_others_who_may_try_again() {
    let (harmful, victims) = harm("time.sleep(60)").await;
    assert_eq!(harmful.status, Status::BudgetExceeded);
    assert!(victims.iter().all(lost), "{victims:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_exits_crashes_them_all() {
    let (harmful, victims) = harm("os._exit(1)").await;
    assert_eq!(harmful.status, Status::Crashed);
    assert!(
        victims
            .iter()
            .all(|victim| victim.status == Status::Crashed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_to_a_call_that_does_not_run_is_a_bad_reply_of_all() {
    let (harmful, victims) = harm("send(77); time.sleep(60)").await;
    assert_eq!(harmful.status, Status::BadReply);
    assert!(
        victims
            .iter()
            .all(|victim| victim.status == Status::BadReply)
    );
    assert!(text(&harmful).contains("call that does not run: 77"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_without_a_call_is_a_bad_reply_of_all() {
    let (harmful, victims) = harm("os.write(3, b'\\x04' + bytes(8)); time.sleep(60)").await;
    assert_eq!(harmful.status, Status::BadReply);
    assert!(
        victims
            .iter()
            .all(|victim| victim.status == Status::BadReply)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_floods_the_database_is_to_blame_and_the_others_are_not() {
    // The calls of a fresh instance are numbered from 1.
    let flood = "[send(1, b'\\x06') for _ in range(10000)]; time.sleep(60)";
    let (harmful, victims) = harm(flood).await;
    let all = victims.iter().chain([&harmful]);
    let blamed = all.clone().filter(|one| one.status == Status::BadReply);
    assert_eq!(blamed.count(), 1, "{harmful:?} {victims:?}");
    assert_eq!(all.filter(|one| lost(one)).count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_answers_for_another_and_then_itself_is_found_out() {
    let bed = Arc::new(Bed::start().await);
    let code = r#"
import os, threading
meeting = threading.Barrier(3)
def f(event):
    if event is None: return 'fine'
    meeting.wait(timeout=20)
    if event == 'harm':
        for call in (1, 2, 3):
            meta = b'{"call": %d}' % call
            os.write(3, b'\x04' + len(meta).to_bytes(4, 'big') + (1).to_bytes(4, 'big') + meta + b'7')
    return event
"#;
    let extra = "concurrency = 3\ntimeout_ms = 10000";
    let function = bed.deploy("forger", code, extra).await;
    let events = [json!(1), json!(2), json!("harm")];
    for outcome in outcomes(all(&bed, &function, events)).await {
        // All three may have got the forged reply first; what comes after that is nobody's.
        assert!(matches!(
            outcome.status,
            Status::Ok | Status::BadReply | Status::InstanceLost
        ));
    }
    let ended = async {
        while bed.pool.snapshot().memory_mb > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within(10), ended)
        .await
        .expect("an instance that replied twice is ended without waiting for a request");
    assert_eq!(bed.reply(&function, json!(null)).await, json!("fine"));
    stop(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_share_an_instance_while_it_has_places() {
    let bed = Arc::new(Bed::start().await);
    let code = r#"
seen = {}
def f(event, context):
    seen[context.session] = seen.get(context.session, 0) + 1
    return [seen[context.session], context.session]
"#;
    let extra = "concurrency = 4\naffinity = \"session\"";
    let function = bed.deploy("sessions", code, extra).await;
    for round in 1..=5 {
        for session in 0..8_u64 {
            let mut invocation = bed.invocation(&function, &json!(null));
            invocation.session = Some(session);
            let outcome = bed.pool.invoke(invocation).await;
            assert_eq!(reply(&outcome), json!([round, session]));
        }
    }
    stop(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_with_many_places_are_ended_whole() {
    let bed = Arc::new(Bed::start_with(|config| config.limits.idle_timeout_ms = 100).await);
    let code = "def f(event):\n    return event\n";
    let function = bed.deploy("idle", code, "concurrency = 4").await;
    outcomes(all(&bed, &function, (0..4).map(|n| json!(n)))).await;
    let mut warm = bed.pool.warm();
    warm.wait_for(Vec::is_empty).await.unwrap();
    stop(bed).await;
}
