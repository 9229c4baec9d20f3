//! Networks by manifest: what may be reached, what not, and what a killed worker leaves.
//!
//! Each test runs in a process with a network namespace of its own, which stands for the host; behind its `up0` is another
//! namespace with servers.

use std::{
    io::{BufRead, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use ebpf_common::wire::Status;
use serde_json::{Value, json};

use super::bed::{Bed, text, within};

/// Tries to reach what it is told, and says what became of it.
const REACHES: &str = r#"
import errno, socket, threading

def reach(host, port, kind):
    tcp = kind == "tcp"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as server:
        server.settimeout(10)
        try:
            server.connect((host, port))
            if not tcp:
                server.send(b"question")
            return server.recv(16).decode()
        except socket.timeout:
            return "no answer"
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))

def listen():
    listener = socket.socket()
    listener.bind(("0.0.0.0", 9000))
    listener.listen()
    def serve():
        while True:
            caller, _ = listener.accept()
            caller.send(b"tcp")
            caller.close()
    threading.Thread(target=serve, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
        any.connect(("10.77.0.2", 1))
        return any.getsockname()[0]

def f(event):
    if event == "listen":
        return listen()
    if isinstance(event, str):
        return socket.gethostbyname(event)
    return [reach(*target) for target in event]
"#;

const MANIFEST: &str = "timeout_ms = 120000\n";

/// Runs the ignored test `name` of this file as a host of its own. What that prints is shown as this test's: between the lines of
/// the test harness it would hide the outcome from whoever reads them (`cargo xtask kernels`).
fn as_a_host(name: &str) {
    let output = Command::new("unshare")
        .args(["-n", "-m"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            &format!("network::{name}"),
        ])
        .env("WP_HOST", "1")
        .output()
        .unwrap();
    for said in [&output.stdout, &output.stderr] {
        for line in String::from_utf8_lossy(said).lines() {
            println!("{name}: {line}");
        }
    }
    assert!(output.status.success(), "{name}: {}", output.status);
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

/// The servers' namespace, held by a process.
struct World(Child);

impl World {
    /// Servers at 10.77.0.2 and .3 behind `up0`, which is 10.77.0.1.
    fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo up; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(holder.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let pid = holder.id();
        sh(&format!(
            "ip link set lo up
             ip link add up0 type veth peer name eth0 netns {pid}
             ip addr add 10.77.0.1/24 dev up0
             ip link set up0 up
             echo 1 > /proc/sys/net/ipv4/conf/up0/forwarding
             nsenter --net=/proc/{pid}/ns/net sh -ec '
               ip addr add 10.77.0.2/24 dev eth0
               ip addr add 10.77.0.3/24 dev eth0
               ip addr add 169.254.169.254/32 dev eth0
               ip link set eth0 up'
             ip route add 169.254.169.254/32 dev up0"
        ));
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        // A thread's namespace is its own: the servers are there, the rest of the test is here.
        std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for port in [443, 444] {
                serve_tcp(TcpListener::bind(("0.0.0.0", port)).unwrap());
            }
            for port in [53, 54] {
                serve_udp(UdpSocket::bind(("10.77.0.2", port)).unwrap());
            }
        })
        .join()
        .unwrap();
        serve_tcp(TcpListener::bind("0.0.0.0:443").unwrap());
        Self(holder)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn serve_tcp(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            drop(caller.write_all(b"tcp"));
        }
    });
}

/// Answers every question, one for a name with 10.77.0.3 (RFC 1035: the question again, and one address).
fn serve_udp(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, caller)) = socket.recv_from(&mut question) {
            let mut answer = question[..length].to_vec();
            if length > 16 {
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 77, 0, 3]);
            }
            drop(socket.send_to(&answer, caller));
        }
    });
}

async fn bed() -> Bed {
    Bed::start_with(|config| {
        config.network.uplink = Some("up0".to_owned());
        config.network.dns = vec![std::net::Ipv4Addr::new(10, 77, 0, 2)];
    })
    .await
}

fn ours(list: &str) -> String {
    let output = Command::new("sh").args(["-ec", list]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Tables and interfaces of workers, by their prefix.
fn left() -> String {
    ours("nft list tables; ip -brief link")
        .lines()
        .filter(|line| line.contains("wp"))
        .collect()
}

#[test]
fn what_the_manifest_lists_is_reached_and_nothing_else() {
    as_a_host("reaches");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of another test"]
async fn reaches() {
    if std::env::var_os("WP_HOST").is_none() {
        return;
    }
    let world = World::new();
    let bed = bed().await;
    let network = "network = [\"10.77.0.2/32:443\", \"10.77.0.2/32:54/udp\"]";
    let narrow = bed
        .deploy("narrow", REACHES, &format!("{MANIFEST}{network}"))
        .await;
    let targets = json!([
        ["10.77.0.2", 443, "tcp"],
        ["10.77.0.2", 54, "udp"],
        ["10.77.0.2", 53, "udp"],
        ["10.77.0.2", 444, "tcp"],
        ["10.77.0.3", 443, "tcp"],
        ["10.77.0.1", 443, "tcp"],
        ["127.0.0.1", 443, "tcp"],
        ["169.254.169.254", 443, "tcp"],
    ]);
    // The control: this host reaches all of them.
    for address in [
        "10.77.0.2:443",
        "10.77.0.2:444",
        "10.77.0.3:443",
        "10.77.0.1:443",
        "127.0.0.1:443",
        "169.254.169.254:443",
    ] {
        TcpStream::connect(address).unwrap();
    }
    let no = "EHOSTUNREACH";
    let found = bed.reply(&narrow, targets.clone()).await;
    // The name server is everybody's with a network; its own loopback is empty.
    assert_eq!(
        found,
        json!([
            "tcp",
            "question",
            "question",
            no,
            no,
            no,
            "ECONNREFUSED",
            no
        ])
    );
    assert_eq!(
        bed.reply(&narrow, json!("server.example")).await,
        "10.77.0.3"
    );
    // All that can be asked for is still neither this host, nor link-local, nor another sandbox.
    let all = bed
        .deploy(
            "all",
            REACHES,
            &format!("{MANIFEST}network = [\"0.0.0.0/0:1-65535\"]"),
        )
        .await;
    let found = bed.reply(&all, targets).await;
    assert_eq!(
        found,
        json!(["tcp", no, "question", "tcp", "tcp", no, "ECONNREFUSED", no])
    );
    let other = bed
        .deploy("other", REACHES, &format!("{MANIFEST}{network}"))
        .await;
    let address = bed.reply(&other, json!("listen")).await;
    let address = address.as_str().unwrap();
    let to_it = json!([[address, 9000, "tcp"]]);
    assert_eq!(
        bed.reply(&other, to_it.clone()).await,
        json!(["tcp"]),
        "it listens, to itself"
    );
    assert_eq!(bed.reply(&all, to_it).await, json!([no]));
    // One that asks for nothing has not even sockets.
    let none = bed.deploy("none", REACHES, MANIFEST).await;
    let refused = bed.call(&none, json!([["10.77.0.2", 443, "tcp"]])).await;
    assert_eq!(refused.status, Status::Exception);
    assert!(
        text(&refused).contains("PermissionError"),
        "{}",
        text(&refused)
    );
    let version6 = bed
        .deploy("six", REACHES, "network = [\"[fd00::/8]:443\"]")
        .await;
    let refused = bed.call(&version6, Value::Null).await;
    assert_eq!(refused.status, Status::SandboxUnavailable);
    assert!(text(&refused).contains("IPv6"), "{}", text(&refused));
    assert!(bed.pool.snapshot().networks >= 3);
    bed.stop().await;
    assert_eq!(left(), "", "nothing stays behind");
    drop(world);
}

#[test]
fn what_a_killed_worker_leaves_lets_nothing_through_and_goes_with_the_next_start() {
    as_a_host("is_killed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of another test"]
async fn is_killed() {
    if std::env::var_os("WP_HOST").is_none() {
        return;
    }
    let world = World::new();
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "network::hosts_a_pool_until_killed",
        ])
        .env("WP_CGROUP_PARENT", super::bed::run_name())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(worker.stdout.take().unwrap()).lines();
    let hosting = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.strip_prefix("hosting ")?.to_owned()));
    let dir = hosting.expect("it hosts");
    assert!(ours("ip -brief link").contains("wp"), "it has no interface");
    worker.kill().unwrap();
    worker.wait().unwrap();
    let table = ours("nft list ruleset");
    assert!(
        table.contains("table inet wp") && table.contains("jump refuse"),
        "{table}"
    );
    let gone = async {
        while ours("ip -brief link").contains("wp") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(within(30), gone)
        .await
        .expect("interfaces go with their sandboxes");
    // An interface that stayed for another reason goes as well.
    let table = table
        .lines()
        .find_map(|line| line.strip_prefix("table inet ")?.split(' ').next());
    sh(&format!(
        "ip link add {}-7 type veth peer name other",
        table.unwrap()
    ));
    let bed = Bed::start_with(|config| {
        config.worker = "killed-with-network".to_owned();
        config.network.uplink = Some("up0".to_owned());
        config.network.prepared = 0;
    })
    .await;
    let now = ours("ip -brief link; nft list ruleset");
    assert!(!now.contains("-7@") && !now.contains("sandbox-"), "{now}");
    bed.stop().await;
    assert_eq!(left(), "");
    // Another process of this run may have found it first.
    drop(std::fs::remove_dir_all(dir));
    drop(world);
}

/// Not a test of its own: [`is_killed`] runs it in a process that it then kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of another test"]
async fn hosts_a_pool_until_killed() {
    let Some(parent) = std::env::var_os("WP_CGROUP_PARENT") else {
        return;
    };
    let bed = Bed::start_with(|config| {
        config.sandbox.cgroup_parent = parent.into_string().unwrap();
        config.worker = "killed-with-network".to_owned();
        config.network.uplink = Some("up0".to_owned());
    })
    .await;
    let manifest = format!("{MANIFEST}network = [\"10.77.0.2:443\"]");
    let function = bed.deploy("narrow", REACHES, &manifest).await;
    assert_eq!(
        bed.reply(&function, json!([["10.77.0.2", 443, "tcp"]]))
            .await,
        json!(["tcp"])
    );
    println!("\nhosting {}", bed.dir.path().display());
    std::future::pending::<()>().await;
}

#[test]
fn a_worker_without_an_uplink_says_so() {
    as_a_host("has_no_uplink");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of another test"]
async fn has_no_uplink() {
    if std::env::var_os("WP_HOST").is_none() {
        return;
    }
    sh("ip link set lo up");
    let bed = Bed::start().await;
    let function = bed
        .deploy("narrow", REACHES, "network = [\"10.77.0.2:443\"]")
        .await;
    let refused = bed.call(&function, Value::Null).await;
    assert_eq!(refused.status, Status::SandboxUnavailable);
    assert!(
        text(&refused).contains("[network] uplink"),
        "{}",
        text(&refused)
    );
    let (config, name) = (bed.config.clone(), "no-uplink".to_owned());
    for (uplink, said) in [
        ("absent0", "no interface `absent0`"),
        ("lo", "forwarding=1"),
    ] {
        let mut config = config.clone();
        config.worker.clone_from(&name);
        config.network.uplink = Some(uplink.to_owned());
        let code = worker::code::CodeCache::new(bed.store.clone(), bed.dir.path().join("code-2"));
        let db = std::sync::Arc::new(db::Router::new(None, db::Metrics::unregistered()));
        let error = worker::pool::Pool::start(config, code, db)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    bed.stop().await;
}
