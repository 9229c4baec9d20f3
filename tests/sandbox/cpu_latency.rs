//! A worker that keeps idle processors easy to wake does so while requests come, and no longer.

use std::time::Duration;

use serde_json::json;
use worker::cpu_latency::Hold;

use super::bed::Bed;

const HELLO: &str = "def f(event):\n    return event\n";

#[tokio::test(flavor = "multi_thread")]
async fn idle_processors_are_kept_awake_while_requests_come() {
    let bed = Bed::start_with(|config| {
        config.cpu_latency.hold = Hold::Busy;
        config.cpu_latency.linger_ms = 1_000;
    })
    .await;
    let function = bed.deploy("hello", HELLO, "").await;
    let before = bed.pool.cpu_latency();
    assert_eq!(
        (before.is_held, before.held_seconds),
        (false, 0.0),
        "nobody has asked anything"
    );
    assert_eq!(bed.reply(&function, json!(1)).await, 1);
    assert!(bed.pool.standing().cpu_latency.is_held);
    let released = async {
        while bed.pool.cpu_latency().is_held {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let released = tokio::time::timeout(Duration::from_secs(20), released).await;
    assert!(released.is_ok(), "still held: {:?}", bed.pool.cpu_latency());
    assert!(bed.pool.cpu_latency().held_seconds >= 1.0);
    bed.stop().await;
}
