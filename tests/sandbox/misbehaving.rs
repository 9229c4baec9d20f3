//! Handlers that break the rules of processes and of the protocol: each gets an error that says whose fault it is, and the
//! next request is served. (Those that want too much are in `contained` and `limits`.)

use std::time::Duration;

use ebpf_common::wire::{Fault, Status};
use serde_json::{Value, json};

use super::{
    bed::{Bed, json as reply_of, text, within},
    contained::does,
    leftovers::cgroups,
};

/// Python that writes a frame: `frame(type, data, meta, announced data length)`.
const FRAME: &str = "
import struct
def frame(kind, data=b'', meta=b'', length=None):
    os.write(3, struct.pack('>BII', kind, len(meta), len(data) if length is None else length) + meta + data)
";

async fn writes(harm: &str, expected: Status) {
    does(&format!("{FRAME}\n{harm}\ntime.sleep(60)"), "", &[expected]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ignores_every_signal() {
    let harm = "
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
while True: pass";
    does(harm, "", &[Status::Timeout]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stops_itself() {
    does(
        "import signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "",
        &[Status::Timeout],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_forks_and_exits() {
    // The child goes on, ignores signals, and tries to answer in its parent's place.
    let harm = format!(
        "{FRAME}
import ctypes, signal
if ctypes.CDLL(None).fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(0.2)
    frame(4, b'1')
    time.sleep(60)
os._exit(0)"
    );
    does(&harm, "", &[Status::Crashed]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_leaves_a_daemon_behind() {
    let bed = Bed::start_with(|config| config.limits.idle_timeout_ms = 500).await;
    let code = "
import os, signal, sys, time
def f(event):
    reading, writing = os.pipe()
    if event and os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.write(writing, str(os.getpid()).encode())
            while True: time.sleep(60)
        os._exit(0)
    if event:
        with open('/tmp/daemon', 'w') as file:
            file.write(os.read(reading, 16).decode())
    try:
        with open('/tmp/daemon') as file:
            os.kill(int(file.read()), 0)
        return 'lives'
    except OSError as error:
        return type(error).__name__
";
    let function = bed.deploy("daemon", code, "").await;
    let first = bed.call(&function, json!(true)).await;
    assert_eq!(reply_of(&first), "lives");
    let second = bed.call(&function, json!(false)).await;
    // Within its own limits it may; it is the function's, and the next request meets both.
    assert_eq!(second.usage.instance, first.usage.instance);
    assert_eq!(reply_of(&second), "lives");
    // It ends with its instance, whatever it ignores.
    let group = cgroups(&bed.config.worker)[0].join(first.usage.instance.to_string());
    assert!(group.exists());
    let ended = async {
        while group.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within(20), ended).await.unwrap();
    assert_eq!(
        bed.reply(&function, json!(false)).await,
        "FileNotFoundError"
    );
    bed.stop().await;
}

/// One whose harm is an exception of its own, after which its instance serves on.
async fn raises(harm: &str, expected: &str) {
    let bed = Bed::start().await;
    let code = format!("import os\ndef f(event):\n    if event:\n{harm}\n    return 'fine'\n");
    let function = bed
        .deploy("raises", &code, "tmp_mb = 1\ntimeout_ms = 30000")
        .await;
    let harmful = bed.call(&function, json!(true)).await;
    assert_eq!(harmful.status, Status::Exception);
    assert_eq!(harmful.status.fault(), Fault::Function);
    assert!(text(&harmful).contains(expected), "{}", text(&harmful));
    let next = bed.call(&function, json!(false)).await;
    assert_eq!(reply_of(&next), json!("fine"));
    assert_eq!(
        next.usage.instance, harmful.usage.instance,
        "nothing is wrong with it"
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fills_its_tmp() {
    let harm = "        with open('/tmp/fill', 'wb') as file:\n            while True: file.write(bytes(1 << 16))";
    raises(harm, "No space left on device").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_opens_100000_files() {
    let harm = "        opened = [open('/dev/null') for _ in range(100_000)]";
    raises(harm, "Too many open files").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_floods_stdout_and_never_answers() {
    does(
        "while True: os.write(1, bytes(1 << 16))",
        "",
        &[Status::Timeout],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_floods_stdout_between_requests() {
    let bed = Bed::start().await;
    let code = "
import os, threading
def flood():
    while True: os.write(2, bytes(1 << 16))
def f(event):
    if event: threading.Thread(target=flood, daemon=True).start()
    return 'fine'
";
    let function = bed
        .deploy("floods", code, "cpu_percent = 50\ntimeout_ms = 30000")
        .await;
    assert_eq!(bed.reply(&function, json!(true)).await, "fine");
    for _ in 0..10 {
        assert_eq!(bed.reply(&function, json!(false)).await, "fine");
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sends_half_a_reply_and_waits() {
    writes("frame(4, b'half', length=1000)", Status::Timeout).await;
    writes("os.write(3, b'\\x04\\x00\\x00')", Status::Timeout).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sends_half_a_reply_and_exits() {
    writes(
        "frame(4, b'half', length=1000)\nos._exit(0)",
        Status::Crashed,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_reply_is_longer_than_it_says() {
    // What is left over is no answer to anybody: the instance goes before another request meets it.
    let bed = Bed::start().await;
    let code = format!(
        "import os\n{FRAME}\ndef f(event):\n    if event: frame(4, b'1' + b'\\x04' * 50, length=1)\n    return 2\n"
    );
    let function = bed.deploy("lies", &code, "").await;
    let lie = bed.call(&function, json!(true)).await;
    assert!(
        lie.status == Status::Ok && lie.payload == "1" || lie.status == Status::BadReply,
        "{:?}: {}",
        lie.status,
        text(&lie)
    );
    for _ in 0..20 {
        assert_eq!(bed.reply(&function, json!(false)).await, json!(2));
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_lies_about_lengths() {
    for lie in [
        "os.write(3, struct.pack('>BII', 4, 0, 65537))",
        "os.write(3, struct.pack('>BII', 4, 0xffffffff, 0))",
        "os.write(3, struct.pack('>BII', 5, 16385, 0))",
        "os.write(3, struct.pack('>BII', 6, 0, 0x7fffffff))",
        "frame(1, b'data where none may be')",
    ] {
        writes(lie, Status::BadReply).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_error_is_no_error() {
    for meta in [
        "b''",
        "b'{}'",
        "b'[1]'",
        "b'\\xff\\xfe'",
        "b'{\"kind\": 1, \"message\": 2}'",
    ] {
        writes(&format!("frame(5, meta={meta})"), Status::BadReply).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_speaks_for_the_worker() {
    for kind in [2, 3, 7, 255] {
        writes(&format!("frame({kind})"), Status::BadReply).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_blames_somebody_else() {
    // The kind and the message of an exception are the handler's; the status and the fault are not.
    let bed = Bed::start().await;
    let code = "
class PlatformError(Exception): pass
def f(event):
    raise PlatformError('sandbox_unavailable: the platform is at fault, try again')
";
    let function = bed.deploy("blames", code, "").await;
    let outcome = bed.call(&function, Value::Null).await;
    assert_eq!(outcome.status, Status::Exception);
    assert_eq!(outcome.status.fault(), Fault::Function);
    assert!(!outcome.status.is_retryable());
    bed.stop().await;
}
