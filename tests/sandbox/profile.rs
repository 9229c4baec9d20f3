//! Profiles of live functions: what is hot shows, what is not asked for is not sampled, and who lies is found out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ebpf_common::wire::Status;
use serde_json::{Value, json};
use store::CatalogEntry;
use tokio::task::JoinHandle;
use worker::{
    pool::ProfileError,
    profile::{ProfileReport, ProfileRequest},
};

use super::bed::{Bed, json as reply, text};

/// Spends most of its time in one function, and the rest in another.
const HOT: &str = "
import threading, time
def NAME_hot(until):
    while time.thread_time() < until: pass
def NAME_cold(until):
    while time.thread_time() < until: pass
def f(event):
    now = time.thread_time()
    NAME_hot(now + 0.03)
    NAME_cold(now + 0.033)
    return [thread.name for thread in threading.enumerate()].count('profile')
";

fn hot(name: &str) -> String {
    HOT.replace("NAME", name)
}

/// Calls a function over and over until it is stopped.
struct Caller {
    stop: Arc<AtomicBool>,
    calls: JoinHandle<u64>,
}

impl Caller {
    fn start(bed: &Arc<Bed>, function: &Arc<CatalogEntry>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (bed, function, stopped) = (Arc::clone(bed), Arc::clone(function), Arc::clone(&stop));
        let calls = tokio::spawn(async move {
            let mut calls = 0;
            while !stopped.load(Ordering::Relaxed) {
                reply(&bed.call(&function, json!(null)).await);
                calls += 1;
            }
            calls
        });
        Self { stop, calls }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.calls.await.unwrap()
    }
}

fn request(function: &str, seconds: u32) -> ProfileRequest {
    ProfileRequest {
        function: function.to_owned(),
        seconds,
        hz: 99,
    }
}

async fn profile(bed: &Bed, function: &str) -> ProfileReport {
    let request = request(function, 2);
    bed.pool.profile(&request).await.unwrap()
}

/// The share of samples with `frame` in their stack.
fn share(report: &ProfileReport, frame: &str) -> f64 {
    let with = report
        .stacks
        .iter()
        .filter(|(stack, _)| stack.contains(frame));
    let with: u64 = with.map(|(_, samples)| samples).sum();
    with as f64 / report.samples as f64
}

async fn stop(bed: Arc<Bed>) {
    Arc::into_inner(bed).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_of_two_functions_shows_what_is_hot_in_each_and_nothing_of_the_other() {
    let bed = Arc::new(Bed::start().await);
    let mut functions = Vec::new();
    for name in ["one", "two"] {
        let function = bed.deploy(name, &hot(name), "timeout_ms = 20000").await;
        reply(&bed.call(&function, json!(null)).await);
        functions.push(function);
    }
    let callers: Vec<_> = functions.iter().map(|f| Caller::start(&bed, f)).collect();
    let (one, two) = tokio::join!(profile(&bed, "one"), profile(&bed, "two@latest"));
    for caller in callers {
        assert!(caller.stop().await > 0);
    }
    for (report, name, other) in [(&one, "one", "two"), (&two, "two", "one")] {
        let stacks = &report.stacks;
        assert!(report.samples >= 40 && report.requests > 1, "{report:?}");
        assert!(report.samples <= 2 * 99 + 20, "{report:?}");
        let at = format!("f (f.py:7);{name}_hot (f.py:3)");
        assert!(share(report, &at) > 0.7, "{stacks:?}");
        assert!(share(report, &format!("{name}_cold")) < 0.3, "{stacks:?}");
        assert_eq!(share(report, other), 0.0, "{stacks:?}");
        // What calls the handler is nobody's business.
        assert_eq!(share(report, "_invoke"), 0.0, "{stacks:?}");
    }
    assert!(bed.pool.snapshot().profile_samples >= one.samples + two.samples);
    stop(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_leaves_no_thread_behind_and_starts_none_unasked() {
    let bed = Arc::new(Bed::start().await);
    let function = bed.deploy("hot", &hot("n"), "timeout_ms = 20000").await;
    assert_eq!(bed.reply(&function, json!(null)).await, json!(0));
    let caller = Caller::start(&bed, &function);
    let report = profile(&bed, "hot").await;
    caller.stop().await;
    assert!(report.samples > 0);
    let ended = async {
        while bed.reply(&function, json!(null)).await != json!(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = super::bed::within(20);
    tokio::time::timeout(patience, ended).await.unwrap();
    stop(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_sees_calls_that_share_an_instance_and_what_takes_longer_than_the_profile() {
    let bed = Arc::new(Bed::start().await);
    let code = "
import time
def waits(seconds):
    time.sleep(seconds)
def f(event):
    waits(3)
    return 0
";
    let extra = "timeout_ms = 20000\nconcurrency = 2\nmax_instances = 1";
    let slow = bed.deploy("slow", code, extra).await;
    // It is known from its first request on.
    let first = bed.call(&slow, json!(null)).await;
    reply(&first);
    let callers = [Caller::start(&bed, &slow), Caller::start(&bed, &slow)];
    let request = request("slow", 5);
    let report = bed.pool.profile(&request).await.unwrap();
    for caller in callers {
        caller.stop().await;
    }
    assert!(report.samples >= 100, "{report:?}");
    assert!(
        share(&report, "f (f.py:5);waits (f.py:3)") > 0.9,
        "{report:?}"
    );
    assert_eq!(bed.pool.snapshot().cold_starts, 1);
    stop(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_sees_coroutines() {
    let bed = Arc::new(Bed::start().await);
    let code = "
import time
async def hot(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end: pass
async def f(event):
    await hot(0.03)
    return 0
";
    for (name, extra) in [("alone", ""), ("shared", "concurrency = 4")] {
        let extra = format!("timeout_ms = 20000\n{extra}");
        let function = bed.deploy(name, code, &extra).await;
        reply(&bed.call(&function, json!(null)).await);
        let caller = Caller::start(&bed, &function);
        let report = profile(&bed, name).await;
        caller.stop().await;
        assert!(report.samples >= 20, "{report:?}");
        let hot = share(&report, "f (f.py:6);hot (f.py:3)");
        assert!(hot > 0.7, "{report:?}");
    }
    stop(bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_is_refused_with_what_to_do() {
    let bed = Arc::new(Bed::start().await);
    let refused = |request: ProfileRequest| {
        let bed = Arc::clone(&bed);
        async move { bed.pool.profile(&request).await.unwrap_err() }
    };
    let unknown = refused(request("absent", 1)).await;
    assert!(matches!(unknown, ProfileError::Unknown { .. }));
    assert!(unknown.to_string().contains("warmpath fn invoke absent"));
    for (seconds, hz) in [(0, 99), (301, 99), (1, 0), (1, 1_001)] {
        let request = ProfileRequest {
            hz,
            ..request("absent", seconds)
        };
        assert!(matches!(refused(request).await, ProfileError::Range));
    }
    let script = "#!/usr/bin/perl\n";
    let extra = "runtime = \"native\"\nentry = \"f\"";
    let native = bed.deploy_files("native", &[("f", script)], extra).await;
    bed.call(&native, json!(null)).await;
    let native = refused(request("native", 1)).await;
    assert!(native.to_string().contains("the runtime native"));
    let function = bed.deploy("hot", &hot("n"), "").await;
    reply(&bed.call(&function, json!(null)).await);
    let asked = request("hot", 1);
    let (idle, busy) = tokio::join!(bed.pool.profile(&asked), refused(asked.clone()));
    assert!(matches!(busy, ProfileError::Busy { .. }));
    // Nobody called.
    assert_eq!(idle.unwrap().requests, 0);
    // Who stops waiting stops the profile.
    let given_up = tokio::time::timeout(Duration::from_millis(1), bed.pool.profile(&asked)).await;
    assert!(given_up.is_err());
    assert!(bed.pool.profile(&asked).await.is_ok());
    stop(bed).await;
}

/// Python that writes a frame of samples, with what stands for a call.
const LIES: &str = "
import os, struct, time
def frame(data, meta=b''):
    os.write(3, struct.pack('>BII', 13, len(meta), len(data)) + meta + data)
def f(event, context):
    call = b'{\"call\": %d}' % CALL if SHARED else b''
    if event == 'flood':
        while True: frame(b'[[\"a\",1]]', call)
    if event == 'garbage':
        frame(b'{}', call)
        time.sleep(60)
    if event == 'long':
        os.write(3, struct.pack('>BII', 13, 0, 65537))
        time.sleep(60)
    if event == 'many':
        frame(b'[' + b','.join([b'[\"a\",1]'] * 600) + b']', call)
        time.sleep(60)
    return 'fine'
";

async fn lies(bed: &Bed, function: &Arc<CatalogEntry>, event: &str) {
    let outcome = bed.call(function, json!(event)).await;
    assert_eq!(
        outcome.status,
        Status::BadReply,
        "{event}: {}",
        text(&outcome)
    );
    assert_eq!(bed.reply(function, Value::Null).await, json!("fine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_of_a_handler_that_sends_its_own_is_bounded_and_its_fault() {
    let bed = Bed::start().await;
    for (name, shared) in [("alone", false), ("shared", true)] {
        let code = LIES.replace("SHARED", if shared { "True" } else { "False" });
        // The first call of an instance is number 1, the one after it 2.
        let code = code.replace("CALL", "2");
        let extra = if shared { "concurrency = 2" } else { "" };
        let extra = format!("timeout_ms = 20000\n{extra}");
        let function = bed.deploy(name, &code, &extra).await;
        assert_eq!(bed.reply(&function, Value::Null).await, json!("fine"));
        // Unasked it is out of turn.
        lies(&bed, &function, "flood").await;
        let asked = request(name, 5);
        let lying = async {
            for event in ["flood", "garbage", "long", "many"] {
                lies(&bed, &function, event).await;
            }
        };
        let (report, ()) = tokio::join!(bed.pool.profile(&asked), lying);
        let report = report.unwrap();
        assert!(report.requests >= 8, "{report:?}");
        assert!(
            share(&report, "a") * report.samples as f64 <= 10.0,
            "{report:?}"
        );
    }
    bed.stop().await;
}
