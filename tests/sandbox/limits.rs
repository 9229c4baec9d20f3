//! Memory, processes, CPU time, `/tmp` and time are what the manifest says.

use std::time::Duration;

use ebpf_common::wire::Status;
use serde_json::json;

use super::bed::{Bed, slower, text};

#[tokio::test(flavor = "multi_thread")]
async fn memory_beyond_the_limit_ends_the_instance_and_not_the_next_request() {
    let bed = Bed::start().await;
    let code = r#"
def f(event):
    held = []
    while event is None or len(held) < event:
        held.append(bytearray(1 << 20))
    return len(held)
"#;
    let function = bed
        .deploy("hog", code, "memory_mb = 64\ntimeout_ms = 20000")
        .await;
    let modest = bed.call(&function, json!(30)).await;
    assert_eq!(super::bed::json(&modest), json!(30));
    let greedy = bed.call(&function, json!(null)).await;
    assert_eq!(greedy.status, Status::OutOfMemory, "{}", text(&greedy));
    assert!(text(&greedy).contains("64 MB"), "{}", text(&greedy));
    let next = bed.call(&function, json!(30)).await;
    assert_eq!(super::bed::json(&next), json!(30));
    assert!(next.usage.cold);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_can_never_be_had_is_out_of_memory_too() {
    let bed = Bed::start().await;
    let function = bed
        .deploy(
            "huge",
            "def f(event):\n    return len(bytes(1 << 50))\n",
            "",
        )
        .await;
    assert_eq!(
        bed.call(&function, json!(null)).await.status,
        Status::OutOfMemory
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_tmp_are_bounded_and_count_as_memory() {
    let bed = Bed::start().await;
    let code = r#"
import errno
def f(event):
    written = 0
    try:
        with open("/tmp/fill", "wb") as fill:
            while True:
                written += fill.write(bytes(1 << 16))
                fill.flush()
    except OSError as error:
        return [errno.errorcode[error.errno], written >> 20]
"#;
    let function = bed.deploy("fill", code, "tmp_mb = 4").await;
    assert_eq!(
        bed.reply(&function, json!(null)).await,
        json!(["ENOSPC", 4])
    );
    let code = code.replace("OSError", "ZeroDivisionError");
    let extra = "tmp_mb = 512\nmemory_mb = 64\ntimeout_ms = 20000";
    let function = bed.deploy("fill-more", &code, extra).await;
    assert_eq!(
        bed.call(&function, json!(null)).await.status,
        Status::OutOfMemory
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_bounded() {
    let bed = Bed::start().await;
    let code = r#"
import os, time
def f(event):
    children = 0
    try:
        while True:
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            children += 1
    except BlockingIOError:
        return children
"#;
    let function = bed.deploy("forks", code, "pids = 10").await;
    // The instance is the tenth.
    assert_eq!(bed.reply(&function, json!(null)).await, json!(9));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cpu_time_is_bounded() {
    let bed = Bed::start().await;
    let code = r#"
import time
def f(event):
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
    return time.process_time()
"#;
    let function = bed.deploy("spins", code, "cpu_percent = 20").await;
    bed.call(&function, json!(null)).await;
    let outcome = bed.call(&function, json!(null)).await;
    let used_ms = outcome.usage.cpu_ns / 1_000_000;
    // A fifth of a second, give or take the scheduler's periods of 100 ms.
    assert!(
        (100..=420).contains(&used_ms),
        "{used_ms} ms of CPU in one second"
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_bounded_and_the_fault_is_whose_limit_it_was() {
    let bed = Bed::start().await;
    let function = bed
        .deploy(
            "loops",
            "def f(event):\n    while event: pass\n",
            "timeout_ms = 400",
        )
        .await;
    let looping = bed.call(&function, json!(true)).await;
    assert_eq!(looping.status, Status::Timeout, "{}", text(&looping));
    assert!(
        (400_000..1_000_000).contains(&(looping.usage.wall_us / u64::from(slower()))),
        "{:?}",
        looping.usage
    );
    let mut hurried = bed.invocation(&function, &json!(true));
    hurried.caller_deadline =
        Some(tokio::time::Instant::now() + Duration::from_millis(200) * slower());
    assert_eq!(
        bed.pool.invoke(hurried).await.status,
        Status::BudgetExceeded
    );
    let next = bed.call(&function, json!(null)).await;
    assert_eq!(next.status, Status::Ok);
    assert_ne!(next.usage.instance, looping.usage.instance);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_is_bounded_too() {
    let bed =
        Bed::start_with(|config| config.limits.start_timeout_ms = 1_500 * u64::from(slower()))
            .await;
    let function = bed.deploy("never", "while True: pass\n", "").await;
    assert_eq!(
        bed.call(&function, json!(null)).await.status,
        Status::Timeout
    );
    let extra = "memory_mb = 32\ntimeout_ms = 20000";
    let function = bed
        .deploy("fat", "held = bytearray(1 << 28)\n", extra)
        .await;
    assert_eq!(
        bed.call(&function, json!(null)).await.status,
        Status::OutOfMemory
    );
    bed.stop().await;
}
