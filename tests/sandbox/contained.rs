//! Handlers that mean harm: each is contained, its request gets the right status, and the next request a
//! fresh instance.

use ebpf_common::wire::Status;
use serde_json::json;

use super::bed::{Bed, text, within};

/// Runs a handler that does `harm` when its event is true, and then as it should.
pub(super) async fn does(harm: &str, extra: &str, expected: &[Status]) {
    let bed = Bed::start().await;
    let body: String = harm
        .lines()
        .map(|line| format!("        {line}\n"))
        .collect();
    let code = format!(
        "import os, sys, socket, threading, time\ndef f(event):\n    if event:\n{body}    return 'fine'\n"
    );
    let function = bed
        .deploy("harm", &code, &format!("timeout_ms = 2000\n{extra}"))
        .await;
    let bystander = bed
        .deploy("bystander", "def f(event):\n    return 'fine'\n", "")
        .await;
    let first = bed.call(&bystander, json!(null)).await;
    let harmful = bed.call(&function, json!(true)).await;
    assert!(
        expected.contains(&harmful.status),
        "{:?}: {}",
        harmful.status,
        text(&harmful)
    );
    let next = bed.call(&function, json!(false)).await;
    assert_eq!(super::bed::json(&next), json!("fine"));
    assert!(next.usage.cold && next.usage.instance != harmful.usage.instance);
    let unharmed = bed.call(&bystander, json!(null)).await;
    assert_eq!(unharmed.status, Status::Ok);
    assert_eq!(
        unharmed.usage.instance, first.usage.instance,
        "others notice nothing"
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_loops() {
    does("while True: pass", "", &[Status::Timeout]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sleeps_without_end() {
    does("time.sleep(1e6)", "", &[Status::Timeout]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_forks_without_end() {
    let harm = "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass";
    does(harm, "", &[Status::Timeout]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_allocates_without_end() {
    let extra = "memory_mb = 64\ntimeout_ms = 20000";
    let code = "held = []\nwhile True: held.append(bytearray(1 << 20))";
    let extra = extra.replace("timeout_ms = 20000", "");
    does(code, &extra, &[Status::OutOfMemory]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_children_allocate_without_end() {
    let harm = "held = []\nwhile os.fork() == 0 or True: held.append(bytearray(1 << 20))";
    does(
        harm,
        "memory_mb = 64",
        &[Status::OutOfMemory, Status::Timeout],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_exits() {
    does("os._exit(0)", "", &[Status::Crashed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_crashes() {
    does("import ctypes\nctypes.string_at(1)", "", &[Status::Crashed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_closes_its_socket() {
    does(
        "os.closerange(3, 100)\ntime.sleep(60)",
        "",
        &[Status::Crashed],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_exits_while_a_child_holds_the_socket() {
    let harm = "\
import ctypes
if ctypes.CDLL(None).fork() == 0:
    time.sleep(60)
os._exit(0)";
    does(harm, "", &[Status::Crashed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_writes_garbage() {
    does(
        "os.write(3, b'GET / HTTP/1.1')\ntime.sleep(60)",
        "",
        &[Status::BadReply],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_announces_four_gigabytes() {
    let harm = "os.write(3, b'\\x04' + b'\\x00' * 4 + b'\\xff' * 4)\ntime.sleep(60)";
    does(harm, "", &[Status::BadReply]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_replies_out_of_turn() {
    does(
        "os.write(3, b'\\x01' + b'\\x00' * 8)\ntime.sleep(60)",
        "",
        &[Status::BadReply],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_replies_too_much() {
    does("return 'x' * (1 << 20)", "", &[Status::BadReply]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_answers_twice() {
    let bed = Bed::start().await;
    let code = "import os\ndef f(event):\n    if event: os.write(3, b'\\x04' + b'\\x00' * 7 + b'\\x011')\n    return 2\n";
    let function = bed.deploy("twice", code, "").await;
    let twice = bed.call(&function, json!(true)).await;
    assert_eq!(
        super::bed::json(&twice),
        json!(1),
        "the first answer counts"
    );
    // The second must never be taken for the answer to another request.
    for _ in 0..20 {
        assert_eq!(bed.reply(&function, json!(false)).await, json!(2));
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_after_it_replied() {
    let bed = Bed::start().await;
    let code = r#"
import os, threading, time
def f(event):
    if event:
        threading.Thread(target=lambda: (time.sleep(0.05), os._exit(1))).start()
    return 1
"#;
    let function = bed.deploy("dies", code, "").await;
    assert_eq!(bed.reply(&function, json!(true)).await, json!(1));
    let gone = async {
        while bed.pool.snapshot().idle > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within(5), gone).await.unwrap();
    let next = bed.call(&function, json!(false)).await;
    assert_eq!(super::bed::json(&next), json!(1));
    assert!(next.usage.cold);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_prints_100_megabytes() {
    let bed = Bed::start().await;
    let code = r#"
import sys
def f(event):
    for _ in range(100):
        sys.stdout.write("x" * (1 << 20))
    return "done"
"#;
    let function = bed.deploy("prints", code, "timeout_ms = 20000").await;
    assert_eq!(bed.reply(&function, json!(null)).await, json!("done"));
    let counted = async {
        while bed.pool.snapshot().log_bytes < 100 << 20 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within(10), counted).await.unwrap();
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_answers_from_a_forked_child() {
    let bed = Bed::start().await;
    let code = r#"
import os
def f(event):
    if os.fork() == 0:
        return "child"
    os.wait()
    return "parent"
"#;
    let function = bed.deploy("forked", code, "").await;
    for _ in 0..3 {
        assert_eq!(bed.reply(&function, json!(null)).await, json!("parent"));
    }
    bed.stop().await;
}
