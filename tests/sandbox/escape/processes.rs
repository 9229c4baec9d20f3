//! Attempts on other processes, and on one's own privileges.

use ebpf_common::wire::Status;
use serde_json::{Value, json};

use super::{
    Attempt,
    Wall::{NoNewPrivs, Seccomp, Unprivileged},
    refused,
};

#[tokio::test(flavor = "multi_thread")]
async fn tracing_a_process() {
    // PTRACE_TRACEME, which is allowed to all.
    refused(
        r#"attempt(call, "ptrace", 0, 0, 0, 0)"#,
        &[Seccomp],
        "EPERM",
        "worked",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_the_memory_of_a_process() {
    let code = r#"
def f(event):
    secret, into = ctypes.create_string_buffer(b"secret"), ctypes.create_string_buffer(7)
    there = struct.pack("=QQ", ctypes.addressof(secret), 6)
    here = struct.pack("=QQ", ctypes.addressof(into), 6)
    return attempt(call, "process_vm_readv", os.getpid(), here, 1, there, 1, 0)
"#;
    Attempt::new(code)
        .await
        .must_be_refused(&[Seccomp], "EPERM", "worked")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_the_memory_of_pid_1() {
    let code = "def f(event):\n    return attempt(os.open, '/proc/1/mem', os.O_RDONLY)\n";
    let attempt = Attempt::new(code).await;
    assert_eq!(attempt.outside(None, &Value::Null), "worked");
    assert_eq!(attempt.inside(Value::Null).await, "ENOENT");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_descriptor_out_of_a_process() {
    let get = r#"attempt(call, "pidfd_getfd", os.pidfd_open(os.getpid()), 0, 0)"#;
    refused(get, &[Seccomp], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_pid_1() {
    let code = "def f(event):\n    return [attempt(os.kill, 1, 9), attempt(os.kill, 1, 0)]\n";
    let attempt = Attempt::new(code).await;
    // It is another user's; and even for its own user, the kernel keeps SIGKILL from an init.
    assert_eq!(attempt.inside(Value::Null).await, json!(["EPERM", "EPERM"]));
    assert_eq!(attempt.inside(Value::Null).await, json!(["EPERM", "EPERM"]));
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_worker() {
    let code = "def f(pid):\n    return [attempt(os.kill, pid, 0), attempt(os.pidfd_open, pid)]\n";
    let attempt = Attempt::new(code).await;
    let own = std::process::id();
    assert!(std::path::Path::new(&format!("/proc/{own}")).exists());
    assert_eq!(attempt.inside(json!(own)).await, json!(["ESRCH", "ESRCH"]));
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_everything() {
    let code = "
def f(event):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(-1, 9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
";
    let attempt = Attempt::new(code).await;
    let bed = &attempt.bed;
    let bystander = bed
        .deploy("bystander", "def f(event):\n    return 1\n", "")
        .await;
    let before = bed.call(&bystander, Value::Null).await;
    // The signal went to its own child, and to nobody else.
    assert_eq!(attempt.inside(Value::Null).await, json!(-9));
    let after = bed.call(&bystander, Value::Null).await;
    assert_eq!(after.status, Status::Ok);
    assert_eq!(after.usage.instance, before.usage.instance);
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn being_spared_when_memory_runs_out() {
    let code = r#"
def f(score):
    def write():
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(score)
    return attempt(write)
"#;
    let attempt = Attempt::new(code).await;
    // A higher score is allowed to all, a lower one takes a capability; here /proc is read-only in front of that.
    assert_eq!(attempt.outside(None, &json!("500")), "worked");
    assert_eq!(
        attempt.outside(Some(Unprivileged), &json!("-1000")),
        "EACCES"
    );
    assert_eq!(attempt.inside(json!("500")).await, "EROFS");
    assert_eq!(attempt.inside(json!("-1000")).await, "EROFS");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_before_all_others() {
    let nice = "attempt(os.setpriority, os.PRIO_PROCESS, 0, -20)";
    refused(nice, &[Unprivileged], "EACCES", "worked").await;
    let real_time = r#"attempt(call, "sched_setscheduler", 0, 1, struct.pack("=i", 50))"#;
    refused(real_time, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn winning_capabilities_back() {
    // CAP_SYS_ADMIN, by capset(2).
    let capset = r#"attempt(call, "capset", struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", 1 << 21, 1 << 21, 0, 0, 0, 0))"#;
    refused(capset, &[Seccomp, Unprivileged], "EPERM", "worked").await;
    // Ambient ones, by prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW).
    let code = "
def f(event):
    return [attempt(call, 'prctl', 47, 2, 13, 0, 0), open('/proc/self/status').read().count('\\t0000000000000000\\n')]
";
    let attempt = Attempt::new(code).await;
    // Five sets, and no pending, blocked or ignored... signals are of the same form, so at least five.
    let inside = attempt.inside(Value::Null).await;
    assert_eq!(inside[0], "EPERM");
    assert!(inside[1].as_u64().unwrap() >= 5, "{inside}");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn becoming_root() {
    refused(
        r#"attempt(call, "setuid", 0)"#,
        &[Seccomp, Unprivileged],
        "EPERM",
        "worked",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn becoming_root_by_a_setuid_program() {
    use std::os::unix::fs::PermissionsExt;
    let code = "
import subprocess
def f(path):
    return subprocess.run([path, '-u'], capture_output=True, text=True).stdout.strip()
";
    let attempt = Attempt::new(code).await;
    // A copy of `id` that is root's and setuid, among the function's own code.
    let code_dir = attempt
        .bed
        .dir
        .path()
        .join("code")
        .join(attempt.function.digest.hex());
    assert_eq!(attempt.inside(json!("/usr/bin/id")).await, "1000");
    let trap = code_dir.join("id");
    std::fs::copy("/usr/bin/id", &trap).unwrap();
    std::fs::set_permissions(&trap, std::fs::Permissions::from_mode(0o4755)).unwrap();
    for dir in trap
        .ancestors()
        .skip(1)
        .take_while(|dir| dir.starts_with(attempt.bed.dir.path()))
    {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (free, path) = (Some(Unprivileged), json!(trap));
    assert_eq!(attempt.outside(free, &path), "0", "as any user of a host");
    assert_eq!(attempt.outside(Some(NoNewPrivs), &path), "65534");
    assert_eq!(attempt.inside(json!("/handler/id")).await, "1000");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn putting_keys_into_a_terminal() {
    // TIOCSTI and TIOCLINUX. Without a terminal the kernel has another answer than the list.
    let control = "ENOTTY";
    refused(
        r#"attempt(call, "ioctl", 0, 0x5412, b"x")"#,
        &[Seccomp],
        "EPERM",
        control,
    )
    .await;
    refused(
        r#"attempt(call, "ioctl", 0, 0x541C, b"x")"#,
        &[Seccomp],
        "EPERM",
        control,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raising_limits() {
    let code = "
import resource
def f(event):
    kinds = [resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE]
    def higher(kind):
        try:
            resource.setrlimit(kind, (513, 513))
        except ValueError:  # so Python has it
            raise OSError(errno.EPERM, str(kind))
    return [attempt(higher, kind) for kind in kinds]
";
    let attempt = Attempt::new(code).await;
    // Lower than what any host has, and higher than what a handler has.
    let free = attempt.outside(Some(Unprivileged), &Value::Null);
    assert_eq!(free, json!(["worked", "worked", "worked", "worked"]));
    let inside = attempt.inside(Value::Null).await;
    assert_eq!(inside, json!(["EPERM", "EPERM", "EPERM", "EPERM"]));
    attempt.bed.stop().await;
}
