//! Attempts to talk to the world, to the host, or to the worker in another way than the protocol's.

use std::os::linux::net::SocketAddrExt;

use serde_json::{Value, json};

use super::{super::bed::within, Attempt, Wall::Seccomp, refused};

/// A socket of a kind that any user may make otherwise.
async fn no_socket(arguments: &str, control: &str) {
    let expression = format!("attempt(socket.socket, {arguments})");
    refused(&expression, &[Seccomp], "EPERM", control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn speaking_ip() {
    no_socket("socket.AF_INET, socket.SOCK_STREAM", "worked").await;
    no_socket("socket.AF_INET, socket.SOCK_DGRAM", "worked").await;
    no_socket("socket.AF_INET6, socket.SOCK_STREAM", "worked|EAFNOSUPPORT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn making_packets_by_hand() {
    no_socket("socket.AF_INET, socket.SOCK_RAW, 1", "worked").await;
    no_socket("socket.AF_PACKET, socket.SOCK_RAW", "worked|EAFNOSUPPORT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuring_the_network() {
    no_socket("socket.AF_NETLINK, socket.SOCK_RAW, 0", "worked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn speaking_to_the_hypervisor() {
    no_socket("socket.AF_VSOCK, socket.SOCK_STREAM", "worked|EAFNOSUPPORT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reaching_the_kernels_ciphers() {
    no_socket(
        "socket.AF_ALG, socket.SOCK_SEQPACKET",
        "worked|EAFNOSUPPORT",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn speaking_to_other_hardware() {
    // Bluetooth, CAN, and the fieldbus protocols whose code is old.
    no_socket(
        "31, socket.SOCK_RAW, 1",
        "worked|EAFNOSUPPORT|EPROTONOSUPPORT|ESOCKTNOSUPPORT",
    )
    .await;
    no_socket(
        "29, socket.SOCK_RAW, 1",
        "worked|EAFNOSUPPORT|EPROTONOSUPPORT|ESOCKTNOSUPPORT",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reaching_an_abstract_unix_socket_of_the_host() {
    let name = format!("warmpath-escape-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    let code = "
def f(name):
    return attempt(socket.socket(socket.AF_UNIX).connect, '\\0' + name)
";
    let attempt = Attempt::new(code).await;
    // The names belong to a network namespace: there is no such socket in the handler's.
    assert_eq!(attempt.inside(json!(name)).await, "ECONNREFUSED");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reaching_a_unix_socket_of_the_host_by_its_path() {
    let code = "
def f(path):
    return attempt(socket.socket(socket.AF_UNIX).connect, path)
";
    let attempt = Attempt::new(code).await;
    let path = attempt.bed.dir.path().join("host.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert_eq!(attempt.inside(json!(path)).await, "ENOENT");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finding_the_sockets_of_worker_and_zygote() {
    let code = "
def f(event):
    own = socket.socket(socket.AF_UNIX)
    own.bind('\\0own')
    with open('/proc/self/net/unix') as sockets:
        return [line.split()[7:] for line in list(sockets)[1:]]
";
    let attempt = Attempt::new(code).await;
    let named: Vec<Value> = attempt
        .inside(Value::Null)
        .await
        .as_array()
        .unwrap()
        .clone();
    let named: Vec<_> = named
        .into_iter()
        .filter(|names| names != &json!([]))
        .collect();
    assert_eq!(named, [json!(["@own"])], "only its own");
    let host = std::fs::read_to_string("/proc/net/unix").unwrap();
    assert!(host.lines().count() > 1, "the control sees nothing");
    attempt.bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filling_the_workers_descriptors_through_the_protocols_socket() {
    let code = r#"
import array
def f(event):
    if event is None:
        return 1
    worker = socket.socket(fileno=os.dup(3))
    sent = [os.open("/tmp/mark-of-the-escape", os.O_CREAT | os.O_RDWR) for _ in range(200)]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))]
    # A whole result, so that the worker reads it all.
    worker.sendmsg([struct.pack(">BII", 4, 0, 1) + b"2"], rights)
    os._exit(0)
"#;
    let attempt = Attempt::new(code).await;
    assert_eq!(attempt.inside(json!("send")).await, json!(2));
    let gone = async {
        while attempt.bed.pool.snapshot().idle > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within(10), gone).await.unwrap();
    let held = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let held = held.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let held = held.filter(|link| link.to_string_lossy().contains("mark-of-the-escape"));
    assert_eq!(
        held.count(),
        0,
        "the worker asks for no descriptors, so the kernel drops them"
    );
    assert_eq!(attempt.inside(Value::Null).await, json!(1));
    attempt.bed.stop().await;
}
