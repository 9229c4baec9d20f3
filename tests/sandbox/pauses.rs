//! Instances that idle are stopped, and go on when a request comes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use db::{Op, Reply};
use ebpf_common::wire::Status;
use serde_json::json;
use worker::pool::{Path as From, PoolSnapshot};

use super::bed::{Bed, json as reply, run_name, within};

const HELLO: &str = "def f(event):\n    return event\n";

/// Waits for the pool to stand so.
async fn until(bed: &Bed, stands: impl Fn(PoolSnapshot) -> bool) {
    let waiting = async {
        while !stands(bed.pool.snapshot()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let done = tokio::time::timeout(within(20), waiting).await;
    assert!(done.is_ok(), "{:?}", bed.pool.snapshot());
}

async fn pausing_bed() -> Bed {
    Bed::start_with(|config| config.limits.pause_after_ms = 20).await
}

/// Where the groups of this pool's sandboxes can be frozen.
fn freezers(bed: &Bed) -> Vec<PathBuf> {
    let below = Path::new(&run_name()).join(&bed.config.worker);
    let roots = [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup/freezer",
    ];
    let groups = roots.map(|root| Path::new(root).join(&below));
    let entries = groups
        .into_iter()
        .filter_map(|group| std::fs::read_dir(group).ok());
    let children = entries.flatten().flatten().map(|entry| entry.path());
    let files =
        children.flat_map(|group| [group.join("cgroup.freeze"), group.join("freezer.state")]);
    files.filter(|file| file.exists()).collect()
}

fn frozen(bed: &Bed) -> usize {
    let states = freezers(bed)
        .into_iter()
        .map(|file| std::fs::read_to_string(file).unwrap());
    states
        .filter(|state| ["1", "FROZEN"].contains(&state.trim()))
        .count()
}

/// Waits until the database has `key`.
async fn told(bed: &Bed, key: &str) {
    let is_there = async || {
        let get = Op::Get { key: key.into() };
        matches!(
            bed.feeds.execute(get).await.unwrap().0,
            Reply::Value(Some(_))
        )
    };
    let waiting = async {
        while !is_there().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(done.is_ok(), "{key} does not come");
}

/// Lets handlers go on that wait for `key`.
async fn tell(bed: &Bed, key: &str) {
    let put = Op::Put {
        key: key.into(),
        value: b"1".to_vec(),
    };
    bed.feeds.execute(put).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_stops_and_goes_on_with_what_it_knew() {
    let bed = pausing_bed().await;
    let code = r#"
import threading, time
from warmpath import db
longest = 0
def tick():
    global longest
    last = time.monotonic()
    while True:
        time.sleep(0.001)
        last, before = time.monotonic(), last
        longest = max(longest, last - before)
def f(event):
    if event == "start": threading.Thread(target=tick, daemon=True).start()
    if event == "hold":
        time.sleep(0.01)
        db.put("{gate}:here", "1")
        while db.get("{gate}:go") is None: time.sleep(0.001)
    return longest
"#;
    let extra = "max_instances = 1\ntimeout_ms = 20000";
    let function = bed.deploy("ticks", code, extra).await;
    let first = bed.call(&function, json!("start")).await;
    assert!(matches!(first.usage.path, Some(From::Zygote | From::Cold)));
    until(&bed, |pool| pool.paused == 1).await;
    assert_eq!(frozen(&bed), 1);
    assert_eq!(bed.pool.snapshot().idle, 0);
    // Were it running, it would tick 500 times meanwhile.
    tokio::time::sleep(Duration::from_millis(500)).await;
    // While it runs it cannot be paused again, and whoever waits gets it before it idles.
    let holds = bed.invocation(&function, &json!("hold"));
    let waits = bed.invocation(&function, &json!(null));
    let looks = async {
        told(&bed, "{gate}:here").await;
        let counted = frozen(&bed);
        until(&bed, |pool| pool.waiting == 1).await;
        tell(&bed, "{gate}:go").await;
        counted
    };
    let (thawed, warm, frozen) = tokio::join!(
        bed.pool.invoke(holds),
        async {
            told(&bed, "{gate}:here").await;
            bed.pool.invoke(waits).await
        },
        looks
    );
    assert_eq!(frozen, 0);
    assert_eq!(thawed.usage.path, Some(From::Paused));
    assert_eq!(thawed.usage.instance, first.usage.instance);
    assert!(!thawed.usage.cold);
    let longest = reply(&thawed).as_f64().unwrap();
    assert!(longest >= 0.5, "it ran on, {longest} s between two ticks");
    assert_eq!(warm.usage.path, Some(From::Warm));
    let [warm, paused, zygote, cold] = bed.pool.snapshot().paths;
    assert_eq!((warm, paused, zygote + cold), (1, 1, 1));
    assert_eq!(bed.pool.thaw_seconds().get_sample_count(), 1);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_its_socket_has_no_room_for_reaches_a_paused_instance() {
    let bed = pausing_bed().await;
    let code = "def f(event):\n    return len(event)\n";
    let function = bed.deploy("long", code, "timeout_ms = 20000").await;
    let first = bed.call(&function, json!("x")).await;
    until(&bed, |pool| pool.paused == 1).await;
    // Twice what a socket holds: it is told the first part while it is paused, and reads the rest as it runs.
    let long = json!("x".repeat(400_000));
    let outcome = bed.call(&function, long).await;
    assert_eq!(outcome.usage.path, Some(From::Paused));
    assert_eq!(outcome.usage.instance, first.usage.instance);
    assert_eq!(reply(&outcome), 400_000);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requests_at_once_wake_one_paused_instance_that_serves_several() {
    let bed = pausing_bed().await;
    // It answers neither before it has both.
    let code = r#"
import threading
both = threading.Barrier(2)
def f(event):
    if event == "both": both.wait()
    return event
"#;
    let extra = "concurrency = 2\nmax_instances = 1\ntimeout_ms = 20000";
    let function = bed.deploy("pair", code, extra).await;
    for round in 0..5 {
        bed.call(&function, json!("one")).await;
        until(&bed, |pool| pool.paused == 1).await;
        let one = bed.invocation(&function, &json!("both"));
        let two = bed.invocation(&function, &json!("both"));
        let (one, two) = tokio::join!(bed.pool.invoke(one), bed.pool.invoke(two));
        for outcome in [&one, &two] {
            assert_eq!(outcome.status, Status::Ok, "round {round}");
        }
        assert_eq!(one.usage.instance, two.usage.instance);
        let thawed = [&one, &two].map(|outcome| outcome.usage.path == Some(From::Paused));
        assert!(thawed.contains(&true), "round {round}");
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_instance_is_taken_before_one_is_started_and_after_one_that_runs() {
    let bed = pausing_bed().await;
    // One that ends once two run at the same time.
    let code = r#"
import time
from warmpath import db
def f(event, context):
    db.put("{%s}:%d" % (event, context.instance), "1")
    while len(db.scan("{%s}:" % event)) < 2: time.sleep(0.001)
    return 1
"#;
    let function = bed.deploy("two", code, "timeout_ms = 20000").await;
    let one = bed.invocation(&function, &json!("started"));
    let two = bed.invocation(&function, &json!("started"));
    let (one, two) = tokio::join!(bed.pool.invoke(one), bed.pool.invoke(two));
    assert_ne!(one.usage.instance, two.usage.instance);
    until(&bed, |pool| pool.paused == 2).await;
    let starts = bed.pool.snapshot().cold_starts;
    let first = bed.invocation(&function, &json!("thawed"));
    let second = bed.invocation(&function, &json!("thawed"));
    let (first, second) = tokio::join!(bed.pool.invoke(first), bed.pool.invoke(second));
    for outcome in [&first, &second] {
        assert_eq!(
            (outcome.status, outcome.usage.path),
            (Status::Ok, Some(From::Paused))
        );
    }
    assert_eq!(bed.pool.snapshot().cold_starts, starts);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_instances_end_when_nobody_comes_and_when_memory_is_needed() {
    let bed = Bed::start_with(|config| {
        config.limits.pause_after_ms = 10;
        config.limits.idle_timeout_ms = 1_000;
        config.limits.memory_mb = 128;
    })
    .await;
    let a = bed.deploy("a", HELLO, "memory_mb = 128").await;
    let b = bed.deploy("b", HELLO, "memory_mb = 128").await;
    bed.reply(&a, json!(1)).await;
    until(&bed, |pool| pool.paused == 1).await;
    bed.reply(&b, json!(1)).await;
    assert_eq!(bed.pool.snapshot().evicted_for_memory, 1);
    until(&bed, |pool| pool.memory_mb == 0 && pool.paused == 0).await;
    assert!(freezers(&bed).len() <= 1, "groups are left behind");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_leaves_nothing_frozen() {
    let bed = pausing_bed().await;
    let function = bed.deploy("left", HELLO, "concurrency = 4").await;
    bed.reply(&function, json!(1)).await;
    until(&bed, |pool| pool.paused == 1).await;
    let files = freezers(&bed);
    assert!(!files.is_empty());
    bed.stop().await;
    assert!(files.iter().all(|file| !file.exists()), "{files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_means_never() {
    let bed = Bed::start_with(|config| {
        config.limits.pause_after_ms = 0;
        config.limits.idle_timeout_ms = 300;
    })
    .await;
    let function = bed.deploy("never", HELLO, "").await;
    bed.reply(&function, json!(1)).await;
    let mut warm = bed.pool.warm();
    let ended = warm.wait_for(Vec::is_empty);
    tokio::pin!(ended);
    loop {
        assert_eq!(bed.pool.snapshot().paused, 0);
        let step = Duration::from_millis(10);
        if tokio::time::timeout(step, ended.as_mut()).await.is_ok() {
            break;
        }
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_while_instances_are_paused_are_served() {
    let bed = Bed::start_with(|config| {
        config.limits.pause_after_ms = 1;
        // However long a pause takes here, a request waits for its end.
        config.limits.scale_up_after_us = 1_000_000;
    })
    .await;
    let function = bed.deploy("races", HELLO, "concurrency = 2").await;
    for n in 0..400 {
        // Sometimes before the pause, sometimes within it, sometimes after it.
        tokio::time::sleep(Duration::from_micros(700 * (n % 7))).await;
        assert_eq!(bed.reply(&function, json!(n)).await, json!(n));
    }
    assert_eq!(bed.pool.snapshot().cold_starts, 1);
    assert!(bed.pool.snapshot().paths[1] > 0, "none was paused");
    bed.stop().await;
}
