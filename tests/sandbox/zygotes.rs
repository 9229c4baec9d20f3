//! Package zygotes: that they save imports, and that what a package does in one stays there.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use store::{CatalogEntry, Digest};
use tokio::time::Instant;
use worker::log::Wanted;

use super::bed::{Bed, bundle, within};

/// Imports nothing before the work that makes it worth a zygote.
const SLOW: &str = "\
import os, time
end = time.monotonic() + 0.05
while time.monotonic() < end: pass
BORN = (os.getpid(), time.monotonic())
";

async fn put(bed: &Bed, files: &[(&str, &str)]) -> Digest {
    bed.store
        .put_layer(bundle(files).unwrap())
        .await
        .unwrap()
        .digest
}

/// A bed whose instances end at once, so that every request is a cold start.
async fn start() -> Bed {
    Bed::start_with(|config| config.limits.idle_timeout_ms = 20).await
}

/// A cold start's reply; a request that an instance was left for is tried again.
async fn cold(bed: &Bed, function: &Arc<CatalogEntry>) -> Value {
    let deadline = Instant::now() + within(60);
    loop {
        let outcome = bed.call(function, json!(null)).await;
        let reply = super::bed::json(&outcome);
        if outcome.usage.cold {
            return reply;
        }
        assert!(Instant::now() < deadline, "instances do not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for what happens in the background.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + within(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn layers(digests: &[&Digest]) -> String {
    let all: Vec<String> = digests
        .iter()
        .map(|digest| format!("\"{digest}\""))
        .collect();
    format!("layers = [{}]", all.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_imports_is_imported_once_for_all_its_instances() {
    let bed = start().await;
    let slow = put(&bed, &[("slow.py", SLOW)]).await;
    let code = "import slow\nseen = []\ndef f(event):\n    seen.append(1)\n    print('born in', slow.BORN[0])\n    return [slow.BORN, len(seen)]\n";
    let one = bed.deploy("one", code, &layers(&[&slow])).await;
    let other = bed
        .deploy("other", &format!("{code}\n# another\n"), &layers(&[&slow]))
        .await;
    let first = cold(&bed, &one).await;
    until("a zygote grows", || bed.pool.zygotes().len() == 1).await;
    let born = cold(&bed, &one).await;
    assert_ne!(first[0], born[0], "the first instance imported for itself");
    // The function's own state is new in each instance; what its package made is the zygote's.
    assert_eq!((&cold(&bed, &one).await, &born[1]), (&born, &json!(1)));
    // Another function learns by its first start what it imports.
    cold(&bed, &other).await;
    assert_eq!(cold(&bed, &other).await[0], born[0]);
    let zygotes = bed.pool.zygotes();
    assert_eq!(zygotes[0].imports, ["slow"]);
    assert!(
        zygotes[0].forks >= 3 && zygotes[0].memory_mb > 0,
        "{zygotes:?}"
    );
    // What is forked from a zygote prints to its own worker's pipes.
    let wanted = Wanted {
        function: "other".to_owned(),
        ..Wanted::default()
    };
    let printed = bed.pool.logs().read(&wanted).entries;
    let born = format!("born in {}\n", born[0][0]);
    let heard = printed
        .iter()
        .any(|entry| entry.request.is_some() && entry.text == born);
    assert!(heard, "{born} in {printed:?}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zygote_forks_ahead_of_need_and_goes_with_what_it_forked() {
    let bed = Bed::start_with(|config| {
        config.limits.idle_timeout_ms = 20;
        config.limits.zygote_prepared = 2;
        // One more zygote pushes the first one out.
        config.limits.zygote_memory_mb = 60;
    })
    .await;
    let large = format!("{SLOW}\nHELD = b'x' * 40_000_000\n");
    let layer = put(&bed, &[("large.py", &large)]).await;
    let code = "import large\nseen = []\ndef f(event):\n    seen.append(1)\n    return [large.BORN, len(seen)]\n";
    let function = bed.deploy("one", code, &layers(&[&layer])).await;
    cold(&bed, &function).await;
    let is_stocked = || {
        let zygotes = bed.pool.zygotes();
        zygotes.len() == 1 && zygotes[0].ready == 2
    };
    until("a zygote grows and forks ahead", is_stocked).await;
    let born = cold(&bed, &function).await;
    for _ in 0..4 {
        until("what was taken is made anew", is_stocked).await;
        let zygote = bed.pool.zygotes().remove(0);
        // Forked before it was asked for, and used once.
        assert_eq!(cold(&bed, &function).await, born);
        assert_eq!(zygote.ready, 2);
    }
    let snapshot = bed.pool.snapshot();
    assert_eq!(
        (snapshot.zygote_forks, snapshot.zygote_ready > 0),
        (5, true)
    );

    let first = bed.pool.zygotes()[0].id;
    let layer = put(&bed, &[("large.py", &format!("{large}# another\n"))]).await;
    let function = bed.deploy("other", code, &layers(&[&layer])).await;
    let deadline = Instant::now() + within(30);
    while bed.pool.zygotes().iter().any(|zygote| zygote.id == first) {
        assert!(Instant::now() < deadline, "{:?}", bed.pool.zygotes());
        cold(&bed, &function).await;
    }
    // Stopping finds whatever the first one left running.
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zygotes_grow_from_one_another() {
    let bed = start().await;
    let base = put(&bed, &[("slow.py", SLOW)]).await;
    let more = put(
        &bed,
        &[("more.py", &SLOW.replace("import os", "import slow, os"))],
    )
    .await;
    let code = "import slow\ndef f(event):\n    return slow.BORN\n";
    let one = bed.deploy("one", code, &layers(&[&base])).await;
    cold(&bed, &one).await;
    until("the first grows", || bed.pool.zygotes().len() == 1).await;
    let code = "import slow, more\ndef f(event):\n    return [slow.BORN, more.BORN]\n";
    let two = bed.deploy("two", code, &layers(&[&base, &more])).await;
    cold(&bed, &two).await;
    until("the second grows", || bed.pool.zygotes().len() == 2).await;
    let zygotes = bed.pool.zygotes();
    assert_eq!(zygotes[1].parent, Some(zygotes[0].id));
    let born = cold(&bed, &one).await;
    let both = cold(&bed, &two).await;
    assert_eq!(both[0], born, "the child has what its parent imported");
    assert_eq!(cold(&bed, &two).await, both);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_starts_a_thread_is_imported_by_each_instance() {
    let bed = start().await;
    let threads = format!(
        "{SLOW}\nimport threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    );
    let ends = format!("{SLOW}\nimport sys\nif 'f' not in sys.modules: os._exit(3)\n");
    let lies = format!(
        "{SLOW}\nif 'f' not in __import__('sys').modules:\n    fork = os.fork\n    os.fork = lambda: fork() and 1\n"
    );
    for (name, package, grows) in [
        ("threads", &threads, false),
        ("ends", &ends, false),
        ("lies", &lies, true),
    ] {
        let layer = put(&bed, &[("odd.py", package)]).await;
        let code = "import odd\ndef f(event):\n    return 1\n";
        let function = bed.deploy(name, code, &layers(&[&layer])).await;
        let before = bed.pool.snapshot();
        assert_eq!(cold(&bed, &function).await, json!(1), "{name}");
        until(name, || {
            let now = bed.pool.snapshot();
            now.zygotes_unfit > before.zygotes_unfit || now.zygotes_grown > before.zygotes_grown
        })
        .await;
        assert_eq!(
            bed.pool.snapshot().zygotes_grown > before.zygotes_grown,
            grows,
            "{name}"
        );
        // One that lies is found out at its first fork, and the request is served by the first zygote.
        assert_eq!(cold(&bed, &function).await, json!(1), "{name}");
        assert!(bed.pool.zygotes().is_empty(), "{name}");
    }
    bed.stop().await;
}

/// What a package finds when it is imported in a zygote: it tries what it can think of.
const HOSTILE: &str = r#"
import ctypes, os, socket, time
end = time.monotonic() + 0.05
while time.monotonic() < end: pass
libc = ctypes.CDLL(None, use_errno=True)
def attempt(action):
    try:
        return ["done", action()]
    except (OSError, ValueError) as error:
        return ["refused", getattr(error, "errno", None)]
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
PIDFD_OPEN, UNSHARE, MOUNT, PTRACE, CHROOT, SETUID, BPF = 434, 272, 165, 101, 161, 105, 321
FOUND = {
    "uid": os.getuid(),
    "root": sorted(os.listdir("/")),
    "handler": os.listdir("/handler"),
    "host": attempt(lambda: open("/etc/shadow").read()),
    "proc": attempt(lambda: os.listdir("/proc/1/ns")),
    "write": attempt(lambda: open("/usr/x", "w")),
    "kill": attempt(lambda: os.kill(1, 9)),
    "unshare": attempt(lambda: call(UNSHARE, 0x10000000)),
    "mount": attempt(lambda: call(MOUNT, b"x", b"/tmp", b"tmpfs", 0, 0)),
    "ptrace": attempt(lambda: call(PTRACE, 16, 1, 0, 0)),
    "chroot": attempt(lambda: call(CHROOT, b"/tmp")),
    "bpf": attempt(lambda: call(BPF, 0, 0, 0)),
    "inet": attempt(lambda: socket.socket(socket.AF_INET).close()),
    "enter": attempt(lambda: libc.setns(os.pidfd_open(1), 0x20000) and call(-1)),
    "become": attempt(lambda: call(SETUID, 0)),
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_package_in_a_zygote_reaches_nothing_of_the_host() {
    let bed = start().await;
    let layer = put(&bed, &[("hostile.py", HOSTILE)]).await;
    let code = "import hostile\ndef f(event):\n    return hostile.FOUND\n";
    let function = bed.deploy("hostile", code, &layers(&[&layer])).await;
    cold(&bed, &function).await;
    until("a zygote grows", || bed.pool.zygotes().len() == 1).await;
    let found = cold(&bed, &function).await;
    assert!(
        found["uid"].as_u64().unwrap() > 65_535,
        "a user of its own on the host: {found}"
    );
    assert_eq!(found["handler"], json!([]), "no code of a function");
    for action in [
        "host", "proc", "write", "kill", "unshare", "mount", "ptrace", "chroot", "bpf", "inet",
        "enter", "become",
    ] {
        assert_eq!(found[action][0], "refused", "{action}: {found}");
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zygotes_keep_to_their_memory_and_can_be_switched_off() {
    let bed = Bed::start_with(|config| {
        config.limits.idle_timeout_ms = 20;
        config.limits.zygote_memory_mb = 0;
    })
    .await;
    let slow = put(&bed, &[("slow.py", SLOW)]).await;
    let code = "import slow\ndef f(event):\n    return 1\n";
    let function = bed.deploy("one", code, &layers(&[&slow])).await;
    for _ in 0..3 {
        assert_eq!(cold(&bed, &function).await, json!(1));
    }
    assert!(bed.pool.zygotes().is_empty());
    bed.stop().await;

    let bed = Bed::start_with(|config| {
        config.limits.idle_timeout_ms = 20;
        config.limits.zygote_memory_mb = 60;
    })
    .await;
    let large = format!("{SLOW}\nHELD = b'x' * 40_000_000\n");
    for name in ["a", "b"] {
        let layer = put(&bed, &[("large.py", &format!("{large}# {name}\n"))]).await;
        let code = "import large\ndef f(event):\n    return len(large.HELD)\n";
        let function = bed.deploy(name, code, &layers(&[&layer])).await;
        let before = bed.pool.snapshot().zygotes_grown;
        let deadline = Instant::now() + within(30);
        // What is worth less goes: in the end the one that is asked for is there.
        while bed.pool.snapshot().zygotes_grown == before {
            assert!(Instant::now() < deadline, "{name}");
            assert_eq!(cold(&bed, &function).await, json!(40_000_000));
        }
        let total: u64 = bed
            .pool
            .zygotes()
            .iter()
            .map(|zygote| zygote.memory_mb)
            .sum();
        assert!(total <= 60, "{:?}", bed.pool.zygotes());
    }
    assert!(bed.pool.snapshot().zygotes_ended >= 1);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numpy_and_pandas_are_resolved_and_imported_by_a_zygote() {
    let bed = start().await;
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("requirements.txt"), "numpy\npandas\n").unwrap();
    let function = deploy_with_packages(&bed, dir.path(), "sums", NUMPY).await;
    let first = cold(&bed, &function).await;
    until("a zygote with pandas grows", || {
        let zygotes = bed.pool.zygotes();
        zygotes
            .iter()
            .any(|zygote| zygote.imports.iter().any(|name| name == "pandas"))
    })
    .await;
    let (one, other) = (cold(&bed, &function).await, cold(&bed, &function).await);
    assert_eq!(
        (&first["sum"], &one["sum"]),
        (&json!(499_500), &json!(499_500))
    );
    assert_ne!(
        one["random"], other["random"],
        "each instance has a sequence of its own"
    );
    assert!(
        one["import_ms"].as_f64() < first["import_ms"].as_f64(),
        "{first} {one}"
    );
    bed.stop().await;
}

const NUMPY: &str = "\
import time
start = time.perf_counter()
import numpy
import pandas
import_ms = (time.perf_counter() - start) * 1000
def f(event):
    total = int(pandas.Series(numpy.arange(1000)).sum())
    return {'sum': total, 'random': float(numpy.random.random()), 'import_ms': import_ms}
";

/// Deploys `code` with layers of what `dir` requires.
pub(crate) async fn deploy_with_packages(
    bed: &Bed,
    dir: &std::path::Path,
    name: &str,
    code: &str,
) -> Arc<CatalogEntry> {
    let index = super::packages::serve_real_wheels();
    let options = super::packages::options(index.url());
    let made = packages::resolve(dir, packages::Requires::Python, &options, &bed.store).await;
    let made = made.unwrap();
    let digests: Vec<&Digest> = made.iter().map(|made| &made.digest).collect();
    let manifest = format!("memory_mb = 256\ntimeout_ms = 60000\n{}", layers(&digests));
    bed.deploy(name, code, &manifest).await
}
