//! Instances that are kept whether or not anyone calls, and bounds on how many there are.

use std::{sync::Arc, time::Duration};

use ebpf_common::ids::FunctionId;
use serde_json::json;
use worker::pool::{Path, PoolSnapshot};

use super::bed::{Bed, json as reply, within};

const HELLO: &str = "def f(event):\n    return event\n";

async fn until(bed: &Bed, stands: impl Fn(PoolSnapshot) -> bool) {
    let waiting = async {
        while !stands(bed.pool.snapshot()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let done = tokio::time::timeout(within(20), waiting).await;
    assert!(done.is_ok(), "{:?}", bed.pool.snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_instances_are_there_before_the_first_request_and_stay() {
    let bed = Bed::start_with(|config| {
        config.limits.idle_timeout_ms = 50;
        config.limits.pause_after_ms = 0;
    })
    .await;
    let function = bed.deploy("kept", HELLO, "").await;
    let mut warm = bed.pool.warm();
    bed.pool.keep_warm(&[(Arc::clone(&function), 3)]);
    warm.wait_for(|warm| *warm == [FunctionId::of("kept")])
        .await
        .unwrap();
    until(&bed, |pool| pool.idle == 3).await;
    // The prepared sandboxes and ten times the idle time go by.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let snapshot = bed.pool.snapshot();
    assert_eq!(
        (snapshot.idle, snapshot.starting, snapshot.cold_starts),
        (3, 0, 3)
    );
    let first = bed.call(&function, json!(7)).await;
    assert_eq!(reply(&first), json!(7));
    assert_eq!(
        (first.usage.cold, first.usage.path),
        (false, Some(Path::Warm))
    );
    let standing = bed.pool.functions();
    assert_eq!((standing[0].min_warm, standing[0].warm), (3, 3));
    bed.pool.keep_warm(&[]);
    warm.wait_for(Vec::is_empty).await.unwrap();
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_asks_for_is_there_before_the_first_request_and_is_not_made_twice() {
    let bed = Bed::start().await;
    let function = bed.deploy("asked", HELLO, "").await;
    let fetched = bed.pool.prewarm(&function, 0).await.unwrap();
    assert_eq!((fetched.live, fetched.started), (0, 0));
    let code = bed.dir.path().join("code").join(function.digest.hex());
    assert!(code.join("f.py").is_file(), "code without a start");
    assert_eq!(bed.pool.snapshot().cold_starts, 0);
    let warmed = bed.pool.prewarm(&function, 3).await.unwrap();
    assert_eq!((warmed.live, warmed.started), (3, 3));
    let again = bed.pool.prewarm(&function, 2).await.unwrap();
    assert_eq!((again.live, again.started), (3, 0));
    let first = bed.call(&function, json!(7)).await;
    assert_eq!((reply(&first), first.usage.cold), (json!(7), false));
    let snapshot = bed.pool.snapshot();
    assert_eq!((snapshot.cold_starts, snapshot.prewarmed), (3, 3));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_made_warm_than_the_function_and_the_worker_allow() {
    let bed = Bed::start_with(|config| config.limits.memory_mb = 128).await;
    let two = bed
        .deploy("two", HELLO, "memory_mb = 16\nmax_instances = 2")
        .await;
    assert_eq!(bed.pool.prewarm(&two, 5).await.unwrap().live, 2);
    let large = bed.deploy("large", HELLO, "memory_mb = 256").await;
    assert_eq!(bed.pool.prewarm(&large, 1).await.unwrap().live, 0);
    let broken = bed
        .deploy("broken", "raise ValueError\n", "memory_mb = 16")
        .await;
    let report = bed.pool.prewarm(&broken, 2).await.unwrap();
    assert_eq!((report.live, report.started), (0, 0));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_instance_that_ends_is_replaced() {
    let bed = Bed::start().await;
    let code = "import os\ndef f(event):\n    if event == 'die': os._exit(1)\n    return event\n";
    let function = bed.deploy("mortal", code, "").await;
    bed.pool.keep_warm(&[(Arc::clone(&function), 1)]);
    until(&bed, |pool| pool.idle + pool.paused == 1).await;
    bed.call(&function, json!("die")).await;
    until(&bed, |pool| {
        pool.cold_starts == 2 && pool.idle + pool.paused == 1
    })
    .await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_instances_make_no_room_for_others_and_others_make_room_for_them() {
    let bed = Bed::start_with(|config| config.limits.memory_mb = 128).await;
    let extra = "memory_mb = 64\ntimeout_ms = 1000";
    let kept = bed.deploy("kept", HELLO, extra).await;
    let others = [
        bed.deploy("one", HELLO, extra).await,
        bed.deploy("two", HELLO, extra).await,
    ];
    for other in &others {
        bed.reply(other, json!(1)).await;
    }
    bed.pool.keep_warm(&[(Arc::clone(&kept), 1)]);
    until(&bed, |pool| pool.evicted_for_memory == 1).await;
    let mut warm = bed.pool.warm();
    warm.wait_for(|warm| warm.contains(&FunctionId::of("kept")))
        .await
        .unwrap();
    for round in 0..3 {
        for other in &others {
            assert_eq!(bed.reply(other, json!(round)).await, json!(round));
        }
    }
    let outcome = bed.call(&kept, json!(1)).await;
    assert!(matches!(
        outcome.usage.path,
        Some(Path::Warm | Path::Paused)
    ));
    assert!(
        bed.pool
            .functions()
            .iter()
            .any(|f| f.function == "kept@latest" && f.min_warm == 1)
    );
    assert_eq!(
        bed.pool.snapshot().cold_starts - 2,
        bed.pool.snapshot().evicted_for_memory
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_function_that_cannot_be_loaded_is_not_tried_without_end() {
    let bed = Bed::start().await;
    let broken = bed.deploy("broken", "def f(event)\n", "").await;
    bed.pool.keep_warm(&[(Arc::clone(&broken), 2)]);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let snapshot = bed.pool.snapshot();
    assert_eq!((snapshot.functions, snapshot.cold_starts), (0, 0));
    let fine = bed.deploy("fine", HELLO, "").await;
    assert_eq!(bed.reply(&fine, json!(1)).await, json!(1));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_has_no_more_instances_than_its_manifest_allows() {
    let bed = Arc::new(Bed::start().await);
    let code = "import time\ndef f(event):\n    time.sleep(0.2)\n    return 1\n";
    let function = bed
        .deploy("two", code, "max_instances = 2\ntimeout_ms = 20000")
        .await;
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
    assert!(instances.len() <= 2, "{instances:?}");
    assert!(bed.pool.snapshot().cold_starts <= 2);
    Arc::into_inner(bed).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_made_room_for_by_what_is_worth_least() {
    let bed = Bed::start_with(|config| config.limits.memory_mb = 128).await;
    let extra = "memory_mb = 64";
    let hot = bed.deploy("hot", HELLO, extra).await;
    let rare = bed.deploy("rare", HELLO, extra).await;
    let new = bed.deploy("new", HELLO, extra).await;
    for _ in 0..200 {
        bed.reply(&hot, json!(1)).await;
    }
    // Used later than the hot one, and still it goes.
    bed.reply(&rare, json!(1)).await;
    bed.reply(&new, json!(1)).await;
    assert!(!bed.call(&hot, json!(1)).await.usage.cold);
    assert!(bed.call(&rare, json!(1)).await.usage.cold);
    bed.stop().await;
}
