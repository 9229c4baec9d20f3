//! Attempts to use up what others need.

use ebpf_common::wire::Status;
use serde_json::{Value, json};

use super::{
    Attempt,
    Wall::{Rlimits, Seccomp},
    refused,
};

/// An attempt that ends with its instance, and with nothing else.
async fn runs_out_of_memory(code: &str) {
    let extra = "memory_mb = 64\ntmp_mb = 512\ntimeout_ms = 60000";
    let code = format!("{code}\n\ndef f(event):\n    return bomb() if event else 'fine'\n");
    let attempt = Attempt::with_manifest(&code, extra).await;
    let bed = &attempt.bed;
    let outcome = bed.call(&attempt.function, json!(true)).await;
    assert_eq!(
        outcome.status,
        Status::OutOfMemory,
        "{}",
        super::super::bed::text(&outcome)
    );
    assert_eq!(attempt.inside(json!(false)).await, "fine");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb() {
    runs_out_of_memory(
        "def bomb():\n    held = []\n    while True: held.append(bytearray(1 << 20))\n",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb_of_files_without_a_name() {
    runs_out_of_memory(
        "def bomb():\n    fd = os.memfd_create('bomb')\n    while True: os.write(fd, bytes(1 << 20))\n",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb_of_files_in_tmp() {
    runs_out_of_memory(
        "def bomb():\n    with open('/tmp/bomb', 'wb') as file:\n        while True: file.write(bytes(1 << 20))\n",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb_of_shared_memory() {
    // No /dev/shm; and System V's and POSIX's own are not on the list.
    let code =
        "def f(event):\n    return attempt(os.open, '/dev/shm/bomb', os.O_CREAT | os.O_RDWR)\n";
    let attempt = Attempt::new(code).await;
    assert_eq!(attempt.inside(Value::Null).await, "ENOENT");
    attempt.bed.stop().await;
    refused(
        r#"attempt(call, "shmget", 0, 4096, 0o1600)"#,
        &[Seccomp],
        "EPERM",
        "worked",
    )
    .await;
    refused(
        r#"attempt(call, "msgget", 0, 0o1600)"#,
        &[Seccomp],
        "EPERM",
        "worked",
    )
    .await;
    let queue = r#"attempt(call, "mq_open", b"escape", 0o102, 0o600, 0)"#;
    refused(queue, &[Seccomp], "EPERM", "worked|ENOSYS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb() {
    let code = "
def f(event):
    children = 0
    while True:
        try:
            pid = os.fork()
        except OSError as error:
            return [errno.errorcode[error.errno], children]
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        children += 1
";
    let attempt = Attempt::with_manifest(code, "pids = 16\ntimeout_ms = 60000").await;
    // The instance is the sixteenth. EAGAIN is what the pids controller says, and no rlimit is set.
    assert_eq!(attempt.inside(Value::Null).await, json!(["EAGAIN", 15]));
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_files_without_end() {
    let code = "
def f(event):
    opened = []
    try:
        for _ in range(1000 if os.getuid() == 0 else 100_000):
            opened.append(os.open('/dev/null', os.O_RDONLY))
    except OSError as error:
        return [errno.errorcode[error.errno], max(opened)]
    finally:
        for fd in opened:
            os.close(fd)
    return 'worked'
";
    let attempt = Attempt::new(code).await;
    assert_eq!(attempt.outside(None, &Value::Null), "worked");
    let bounded = json!(["EMFILE", 511]);
    assert_eq!(attempt.outside(Some(Rlimits), &Value::Null), bounded);
    assert_eq!(attempt.inside(Value::Null).await, bounded);
    // And it serves on.
    assert_eq!(attempt.inside(Value::Null).await, bounded);
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filling_the_disk() {
    let code = "
def f(event):
    def fill():
        with open('/tmp/fill', 'wb', buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    def litter():
        for number in range(1_000_000):
            os.close(os.open(f'/tmp/{number}', os.O_CREAT | os.O_WRONLY))
    return [attempt(fill), attempt(lambda: os.unlink('/tmp/fill')), attempt(litter)]
";
    let attempt = Attempt::with_manifest(code, "tmp_mb = 4\ntimeout_ms = 60000").await;
    assert_eq!(
        attempt.inside(Value::Null).await,
        json!(["ENOSPC", "worked", "ENOSPC"])
    );
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locking_memory() {
    // As root outside it works whatever the limit, for CAP_IPC_LOCK is above it.
    let code = "def f(event):\n    return attempt(call, 'mlockall', 1)\n";
    let attempt = Attempt::new(code).await;
    assert_eq!(attempt.outside(None, &Value::Null), "worked");
    assert_eq!(attempt.outside(Some(Seccomp), &Value::Null), "EPERM");
    assert_eq!(attempt.inside(Value::Null).await, "EPERM");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_the_cgroup() {
    let code = "
def f(event):
    with open('/proc/self/cgroup') as groups:
        groups = dict(line.strip().split(':')[1:] for line in groups)
    with open('/proc/self/mounts') as mounts:
        mounted = [line.split()[1] for line in mounts if line.split()[2].startswith('cgroup')]
    return [groups, mounted]
";
    let attempt = Attempt::new(code).await;
    let inside = attempt.inside(Value::Null).await;
    assert_eq!(
        inside[1],
        json!([]),
        "no hierarchy is mounted, so there is no file to write to"
    );
    let groups = inside[0].as_object().unwrap();
    let name = &attempt.bed.config.worker;
    for (controllers, path) in groups {
        // What it sees is relative to its own group: nothing of the host's names.
        assert!(
            !path.as_str().unwrap().contains(name),
            "{controllers}: {path}"
        );
    }
    let limited = groups.iter().filter(|(controllers, _)| {
        controllers.is_empty() || controllers.contains("memory") || controllers.contains("pids")
    });
    assert!(limited.count() > 0, "{groups:?}");
    attempt.bed.stop().await;
}
