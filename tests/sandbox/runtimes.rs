//! Runtimes that are no Python: Node, and executables.

use std::time::{Duration, Instant};

use ebpf_common::wire::Status;
use serde_json::json;

use crate::bed::{Bed, json, text, within};

const PERL: &str = include_str!("../../examples/native-hello/f");
const NODE: &str = include_str!("../../examples/node-hello/f.js");

/// What every instance is locked into, as a script tells it.
const CAGE: &str = r#"
const fs = require('node:fs');
const status = (key) => fs.readFileSync('/proc/self/status', 'utf8').match(new RegExp(`^${key}:\\s*(.*)$`, 'm'))[1];
exports.f = async () => ({
  uid: process.getuid(),
  capabilities: status('CapBnd'),
  noNewPrivileges: status('NoNewPrivs'),
  seccomp: status('Seccomp'),
  host: fs.existsSync('/sys/kernel') || fs.existsSync('/root'),
  environment: Object.keys(process.env).sort(),
});
"#;

#[tokio::test]
async fn a_script_with_a_shebang_speaks_the_protocol_itself() {
    let bed = Bed::start().await;
    let files = [("f", PERL)];
    let function = bed
        .deploy_files("n", &files, "runtime = 'native'\nentry = 'f'")
        .await;
    let expected = json!({"greeting": "Hello, Ada!", "by": "n@latest"});
    let first = bed.call(&function, json!({"name": "Ada"})).await;
    assert_eq!(json(&first), expected);
    let second = bed.call(&function, json!({"name": "Ada"})).await;
    assert_eq!((json(&second), second.usage.cold), (expected, false));
    let wrong = bed.call(&function, json!([1])).await;
    assert_eq!(wrong.status, Status::Exception, "{}", text(&wrong));
    assert_eq!(bed.call(&function, json!({})).await.status, Status::Ok);
    bed.stop().await;
}

#[tokio::test]
async fn an_entry_that_cannot_be_executed_says_why() {
    let bed = Bed::start().await;
    let manifest = "runtime = 'native'\nentry = 'f'";
    for (name, code, word) in [
        ("a", "#!/usr/bin/nothing-of-that-name\n", "No such file"),
        ("b", "neither a script nor a program", "Exec format"),
    ] {
        let function = bed.deploy_files(name, &[("f", code)], manifest).await;
        let outcome = bed.call(&function, json!(null)).await;
        assert_eq!(outcome.status, Status::Exception, "{}", text(&outcome));
        assert!(text(&outcome).contains(word), "{}", text(&outcome));
    }
    let silent = [("f", "#!/bin/sh\nexit 3\n")];
    let function = bed.deploy_files("c", &silent, manifest).await;
    let outcome = bed.call(&function, json!(null)).await;
    assert_eq!(outcome.status, Status::Crashed, "{}", text(&outcome));
    bed.stop().await;
}

#[tokio::test]
async fn a_handler_in_node_serves_and_uses_the_database() {
    let bed = Bed::start().await;
    let manifest = "runtime = 'node'\nentry = 'f.js'";
    let function = bed.deploy_files("j", &[("f.js", NODE)], manifest).await;
    for times in 1..=3 {
        let reply = bed.reply(&function, json!({"name": "Ada"})).await;
        let expected = json!({"greeting": "Hello, Ada!", "times": times, "by": "j@latest"});
        assert_eq!(reply, expected);
    }
    bed.stop().await;
}

#[tokio::test]
async fn a_handler_in_node_is_in_the_same_cage() {
    let bed = Bed::start().await;
    let manifest = "runtime = 'node'\nentry = 'f.js'";
    let function = bed.deploy_files("j", &[("f.js", CAGE)], manifest).await;
    let reply = bed.reply(&function, json!(null)).await;
    assert_eq!(reply["uid"], 1_000);
    assert_eq!(reply["capabilities"], "0000000000000000");
    assert_eq!(
        (&reply["noNewPrivileges"], &reply["seccomp"]),
        (&json!("1"), &json!("2"))
    );
    assert_eq!(reply["host"], false);
    let expected = [
        "HOME",
        "LANG",
        "NODE_PATH",
        "PATH",
        "TMPDIR",
        "UV_USE_IO_URING",
    ];
    assert_eq!(reply["environment"], json!(expected));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_runs_already_when_its_function_comes() {
    let bed = Bed::start_with(|config| config.limits.idle_timeout_ms = 20).await;
    // When the process began, by Node's own account, against when the function was loaded.
    let code = "
const loaded = performance.now();
exports.f = async () => ({ ahead: loaded, heap: process.execArgv, here: process.cwd(), said: process.env.SAID });";
    let manifest = "runtime = 'node'\nentry = 'f.js'\nmemory_mb = 160";
    let function = bed.deploy_files("j", &[("f.js", code)], manifest).await;
    let first = bed.reply(&function, json!(null)).await;
    let deadline = Instant::now() + within(30);
    let next = loop {
        assert!(Instant::now() < deadline, "Node is not started ahead");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let next = bed.reply(&function, json!(null)).await;
        // It was there for as long as this slept, and not only for as long as a start takes.
        if next["ahead"].as_f64() > Some(250.0) {
            break next;
        }
    };
    // What it is told at its start is what it would be told then.
    assert_eq!(next["heap"], first["heap"]);
    assert!(
        next["heap"]
            .to_string()
            .contains("--max-old-space-size=120")
    );
    assert_eq!(next["here"], "/handler");

    // One with variables of its own is started with them: Node itself reads some.
    let manifest = format!("{manifest}\nenv = {{ SAID = 'yes' }}");
    let function = bed.deploy_files("k", &[("f.js", code)], &manifest).await;
    let reply = bed.reply(&function, json!(null)).await;
    assert_eq!(reply["said"], "yes");
    bed.stop().await;
}

#[tokio::test]
async fn a_handler_in_node_that_throws_is_blamed_and_serves_on() {
    let bed = Bed::start().await;
    let code = "exports.f = async (event) => { if (event) throw new RangeError('no ' + event); return 'fine'; };";
    let manifest = "runtime = 'node'\nentry = 'f.js'";
    let function = bed.deploy_files("j", &[("f.js", code)], manifest).await;
    let outcome = bed.call(&function, json!("way")).await;
    assert_eq!(outcome.status, Status::Exception);
    assert_eq!(text(&outcome), "RangeError: no way");
    let next = bed.call(&function, json!(null)).await;
    assert_eq!((json(&next), next.usage.cold), (json!("fine"), false));
    let broken = [("f.js", "exports.g = 1;")];
    let function = bed.deploy_files("k", &broken, manifest).await;
    let outcome = bed.call(&function, json!(null)).await;
    assert_eq!(outcome.status, Status::Exception);
    assert!(
        text(&outcome).contains("exports no function f"),
        "{}",
        text(&outcome)
    );
    bed.stop().await;
}

#[tokio::test]
async fn a_handler_in_node_that_hogs_or_loops_is_killed_and_the_next_is_served() {
    let bed = Bed::start().await;
    let code = "
exports.f = async (event) => {
  if (event === 'loop') for (;;);
  if (event === 'hog') { const taken = []; for (;;) taken.push(Buffer.alloc(1 << 20, 1)); }
  return 'fine';
};";
    let manifest = "runtime = 'node'\nentry = 'f.js'\ntimeout_ms = 2000\nmemory_mb = 128";
    let function = bed.deploy_files("j", &[("f.js", code)], manifest).await;
    let looped = bed.call(&function, json!("loop")).await;
    assert_eq!(looped.status, Status::Timeout, "{}", text(&looped));
    assert_eq!(bed.reply(&function, json!(null)).await, json!("fine"));
    let hogged = bed.call(&function, json!("hog")).await;
    assert_eq!(hogged.status, Status::OutOfMemory, "{}", text(&hogged));
    assert_eq!(bed.reply(&function, json!(null)).await, json!("fine"));
    bed.stop().await;
}
