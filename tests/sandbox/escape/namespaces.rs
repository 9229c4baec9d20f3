//! Attempts to make a namespace, which would give all capabilities in it, or to enter another's.

use serde_json::{Value, json};

use super::{
    Attempt,
    Wall::{Seccomp, Unprivileged},
    refused,
};

#[tokio::test(flavor = "multi_thread")]
async fn making_a_user_namespace() {
    refused(
        r#"attempt(call, "unshare", 0x10000000)"#,
        &[Seccomp],
        "EPERM",
        "worked",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_a_child_in_a_user_namespace() {
    let clone = r#"attempt(call, "clone", 0x10000000 | 17, 0, 0, 0, 0)"#;
    refused(clone, &[Seccomp], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_a_child_in_namespaces_of_every_kind() {
    for flag in [
        "0x00020000",
        "0x02000000",
        "0x04000000",
        "0x08000000",
        "0x20000000",
        "0x40000000",
    ] {
        let clone = format!(r#"attempt(call, "clone", {flag} | 17, 0, 0, 0, 0)"#);
        refused(&clone, &[Seccomp, Unprivileged], "EPERM", "worked").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_a_child_by_the_call_whose_flags_no_filter_sees() {
    // struct clone_args: CLONE_NEWUSER, and SIGCHLD at the end.
    let clone =
        r#"attempt(call, "clone3", struct.pack("=8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64)"#;
    refused(clone, &[Seccomp], "ENOSYS", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_time_namespace() {
    let unshare = r#"attempt(call, "unshare", 0x80)"#;
    refused(unshare, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entering_a_namespace() {
    let enter = r#"attempt(call, "setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0)"#;
    refused(enter, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finding_the_namespaces_of_pid_1() {
    let code = "def f(event):\n    return attempt(os.open, '/proc/1/ns/mnt', os.O_RDONLY)\n";
    let attempt = Attempt::new(code).await;
    assert_eq!(attempt.outside(None, &Value::Null), "worked");
    // Not even that it exists: /proc is mounted with hidepid=invisible.
    assert_eq!(attempt.inside(Value::Null).await, "ENOENT");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn being_in_a_namespace_of_the_host() {
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup"];
    let code = "def f(event):\n    return {kind: os.readlink(f'/proc/self/ns/{kind}') for kind in event}\n";
    let attempt = Attempt::new(code).await;
    let inside = attempt.inside(json!(kinds)).await;
    for kind in kinds {
        let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let theirs = inside[kind].as_str().unwrap();
        assert!(theirs.starts_with(&format!("{kind}:[")), "{theirs}");
        assert_ne!(theirs, ours.to_str().unwrap(), "shared with the host");
    }
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renaming_the_host() {
    let rename = r#"attempt(call, "sethostname", b"escaped", 7)"#;
    refused(rename, &[Seccomp, Unprivileged], "EPERM", "worked").await;
}
