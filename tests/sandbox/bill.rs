//! The bill adds up: what requests are charged is what the kernel counted for their sandboxes.

use std::{path::Path, sync::Arc, time::Duration};

use ebpf_common::wire::Status;
use serde_json::{Value, json};
use store::CatalogEntry;
use tokio::time::Instant;
use worker::bill::Usage;

use super::bed::{Bed, slower, within};

/// Does what the event says, which may be to misbehave.
const MIXED: &str = r#"
import os, threading, time
from warmpath import db

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

def child(seconds):
    pid = os.fork()
    if pid == 0:
        burn(seconds)
        os._exit(0)
    return pid

def f(event):
    kind = event["kind"]
    if kind == "spin":
        burn(0.05)
    elif kind == "child":
        os.waitpid(child(0.05), 0)
    elif kind == "left behind":
        child(0.03)
    elif kind == "left burning":
        child(0.2)
    elif kind == "thread":
        threading.Thread(target=burn, args=(0.03,)).start()
    elif kind == "sleep":
        time.sleep(0.02)
    elif kind == "db":
        for n in range(3):
            db.put("{u}:%d" % n, "x")
            db.get("{u}:%d" % n)
        db.scan("{u}:")
    elif kind == "raise":
        burn(0.02)
        raise ValueError("no")
    elif kind == "crash":
        burn(0.1)
        os._exit(3)
    elif kind == "hang":
        burn(60)
    elif kind == "hog":
        burn(0.1)
        held = bytearray()
        while True:
            held += b"x" * 1_000_000
    return kind
"#;

/// CPU time of the child that the kind `left burning` leaves behind.
const LEFT_BURNING_NS: u64 = 200_000_000;

/// CPU time of the pool's own cgroup: of all sandboxes it ever had.
fn counted_ns(bed: &Bed) -> u64 {
    counted_in(&group(bed))
}

fn group(bed: &Bed) -> String {
    format!("{}/{}", bed.config.sandbox.cgroup_parent, bed.config.worker)
}

fn counted_in(group: &str) -> u64 {
    let v1 = Path::new("/sys/fs/cgroup/cpuacct").join(group);
    if v1.exists() {
        let usage = std::fs::read_to_string(v1.join("cpuacct.usage")).unwrap();
        return usage.trim().parse().unwrap();
    }
    let v2 = Path::new("/sys/fs/cgroup").join(group).join("cpu.stat");
    let stat = std::fs::read_to_string(v2).unwrap();
    let usage = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    usage.unwrap().parse::<u64>().unwrap() * 1_000
}

async fn until(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within(20), holds).await.unwrap();
}

async fn bill(bed: &Bed, function: &Arc<CatalogEntry>, event: Value, status: Status) -> Usage {
    let mut invocation = bed.invocation(function, &event);
    if status == Status::BudgetExceeded {
        invocation.caller_deadline = Some(Instant::now() + Duration::from_millis(600) * slower());
    }
    let outcome = bed.pool.invoke(invocation).await;
    assert_eq!(outcome.status, status, "{event}");
    outcome.usage
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sum_of_all_bills_is_what_the_cgroup_counted() {
    let bed = Bed::start_with(|config| {
        // No sandbox is made that no request uses.
        config.limits.prepared = 0;
        config.limits.idle_timeout_ms = 300;
    })
    .await;
    let function = bed
        .deploy("mixed", MIXED, "memory_mb = 64\ntimeout_ms = 10000")
        .await;
    let mut charged_ns = 0;
    for _ in 0..3 {
        for kind in [
            "spin",
            "child",
            "left behind",
            "thread",
            "sleep",
            "db",
            "spin",
            "spin",
            "spin",
        ] {
            charged_ns += bill(&bed, &function, json!({"kind": kind}), Status::Ok)
                .await
                .cpu_ns;
        }
        for (kind, status) in [
            ("raise", Status::Exception),
            ("crash", Status::Crashed),
            ("hang", Status::BudgetExceeded),
            ("hog", Status::OutOfMemory),
        ] {
            charged_ns += bill(&bed, &function, json!({"kind": kind}), status)
                .await
                .cpu_ns;
        }
    }
    adds_up(&bed, charged_ns).await;
    bed.stop().await;
}

/// Once nothing runs any more, bills and counter are the same within 2 %, and with the remainder altogether.
async fn adds_up(bed: &Bed, charged_ns: u64) {
    until(|| bed.pool.snapshot().memory_mb == 0).await;
    let counted_ns = counted_ns(bed);
    let rest_ns = bed.pool.snapshot().unbilled_cpu_ns;
    println!("billed {charged_ns} ns, not billed {rest_ns} ns, counted {counted_ns} ns");
    let off = counted_ns.abs_diff(charged_ns) as f64 / counted_ns as f64;
    assert!(
        off <= 0.02,
        "{charged_ns} ns billed, {counted_ns} ns counted"
    );
    let lost = counted_ns.abs_diff(charged_ns + rest_ns) as f64 / counted_ns as f64;
    assert!(
        lost <= 0.002,
        "{charged_ns} + {rest_ns} ns, {counted_ns} ns counted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_share_an_instance_share_its_bill() {
    let bed = Bed::start_with(|config| {
        config.limits.prepared = 0;
        config.limits.idle_timeout_ms = 300;
        config.limits.instances_per_function = 1;
    })
    .await;
    let extra = "memory_mb = 64\ntimeout_ms = 20000\nconcurrency = 4";
    let function = bed.deploy("mixed", MIXED, extra).await;
    let bed = Arc::new(bed);
    let calls: Vec<_> = (0..24)
        .map(|number| {
            let (bed, function) = (Arc::clone(&bed), Arc::clone(&function));
            let kind = ["spin", "sleep"][number % 2];
            tokio::spawn(
                async move { bill(&bed, &function, json!({"kind": kind}), Status::Ok).await },
            )
        })
        .collect();
    let mut charged_ns = 0;
    for call in calls {
        let usage = call.await.unwrap();
        assert!(usage.cpu_ns > 0, "{usage:?}");
        charged_ns += usage.cpu_ns;
    }
    assert_eq!(bed.pool.snapshot().cold_starts, 1);
    adds_up(&bed, charged_ns).await;
    Arc::into_inner(bed).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bill_says_what_was_used_for_what() {
    // What is paused uses nothing any more.
    let bed = Bed::start_with(|config| config.limits.pause_after_ms = 0).await;
    let extra = "memory_mb = 64\ntimeout_ms = 20000";
    let function = bed.deploy("mixed", MIXED, extra).await;
    let cold = bill(&bed, &function, json!({"kind": "sleep"}), Status::Ok).await;
    assert!(
        cold.cold && cold.cold_us > 0 && cold.cold_us <= cold.queue_us,
        "{cold:?}"
    );
    assert!(
        cold.start_cpu_ns > 0 && cold.start_cpu_ns < cold.cpu_ns,
        "{cold:?}"
    );
    assert!(cold.wall_us >= cold.queue_us + 20_000, "{cold:?}");
    // 64 MB for 20 ms.
    assert!(cold.memory_mb_ms >= 64 * 20, "{cold:?}");
    assert!((1_000..64 << 10).contains(&cold.memory_peak_kb), "{cold:?}");
    let event = json!({"kind": "spin"});
    let spun = bill(&bed, &function, event.clone(), Status::Ok).await;
    assert!(
        !spun.cold && spun.cold_us == 0 && spun.start_cpu_ns == 0,
        "{spun:?}"
    );
    assert!(spun.cpu_ns >= 50_000_000, "{spun:?}");
    assert_eq!(spun.bytes_in, event.to_string().len() as u64);
    assert_eq!(spun.bytes_out, "\"spin\"".len() as u64);
    let data = bill(&bed, &function, json!({"kind": "db"}), Status::Ok).await;
    let ops = data.db;
    assert_eq!((ops.get_local, ops.write_local, ops.scan_local), (3, 3, 1));
    assert_eq!(ops.total(), 7);
    // A child's CPU time is billed as its parent's is; what one left behind uses after the reply is the next request's,
    // stated apart.
    let child = bill(&bed, &function, json!({"kind": "child"}), Status::Ok).await;
    assert!(child.cpu_ns >= 50_000_000, "{child:?}");
    let instance = format!("{}/{}", group(&bed), child.instance);
    let before_ns = counted_in(&instance);
    let event = json!({"kind": "left burning"});
    let left = bill(&bed, &function, event, Status::Ok).await;
    until(|| counted_in(&instance) >= before_ns + LEFT_BURNING_NS).await;
    let next = bill(&bed, &function, json!({"kind": "sleep"}), Status::Ok).await;
    assert!(next.idle_cpu_ns > 0, "{next:?}");
    // How much of it was before the reply is the scheduler's choice.
    let both_ns = left.cpu_ns + next.idle_cpu_ns;
    assert!(both_ns >= LEFT_BURNING_NS, "{left:?} {next:?}");
    bed.stop().await;
}
