//! Streams through everything: curl, gateway, XDP, worker, sandbox, and back.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::Value;
use tests::{cluster::Cluster, wait};

use crate::bed::{examples, machine, platform, warmpath};

const PATIENCE: Duration = Duration::from_secs(20);

/// Goes on from one event to the next when it is told to, through the database.
const GATED: &str = r#"
import os, time, warmpath
from warmpath import Response, db

def f(request):
    if request.path == "/tell":
        db.put("{gate}:" + request.query, "1")
        return "told"
    if request.path == "/ask":
        return str(db.get("{gate}:" + request.query) is not None)
    if request.path == "/who":
        return warmpath.context.worker
    return Response(events(warmpath.context.worker), headers={"content-type": "text/event-stream"})

def events(worker):
    try:
        for number in range(3):
            yield f"data: {number} of {worker}\n\n"
            while db.get("{gate}:%d" % number) is None: time.sleep(0.01)
    finally:
        db.put("{gate}:over", "1")
"#;

const MANIFEST: &str = r#"
name = "gated"
interface = "http"
methods = ["GET", "POST"]
timeout_ms = 60000
memory_mb = 64
"#;

/// A platform with the gated function, and the directory that it came from.
fn gated() -> Cluster {
    let cluster = platform(&["streams"]);
    let dir = tempfile::tempdir().unwrap();
    let function = dir.path().join("gated");
    std::fs::create_dir(&function).unwrap();
    std::fs::write(function.join("f.py"), GATED).unwrap();
    std::fs::write(function.join("warmpath.toml"), MANIFEST).unwrap();
    cluster.deploy(&function).unwrap();
    cluster.deploy(&examples().join("hello")).unwrap();
    cluster
}

fn curl(cluster: &Cluster, args: &[&str]) -> Child {
    let client = &cluster.topology.client.netns;
    client
        .command("curl")
        .args(["-sSN", "--max-time", "60"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn url(cluster: &Cluster, path: &str) -> String {
    format!("{}/run/{path}", cluster.gateway_url())
}

fn get(cluster: &Cluster, path: &str) -> String {
    let client = &cluster.topology.client.netns;
    client
        .run("curl", &["-sS", "--max-time", "20", &url(cluster, path)])
        .unwrap()
}

fn tell(cluster: &Cluster, what: &str) {
    assert_eq!(get(cluster, &format!("gated/tell?{what}")), "told");
}

fn streams(cluster: &Cluster) -> Vec<Value> {
    let sockets = cluster.worker_sockets();
    let sockets = sockets.split(',');
    sockets
        .map(|socket| {
            cluster
                .cli(&["worker", "streams", "--worker", socket, "--json"])
                .unwrap()
        })
        .collect()
}

/// The next event's data.
fn next(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> String {
    let event = lines.next().expect("an event").unwrap();
    assert_eq!(lines.next().expect("its end").unwrap(), "");
    event.strip_prefix("data: ").unwrap().to_owned()
}

#[test]
fn events_reach_curl_one_by_one_and_a_hang_up_reaches_the_handler() {
    let _machine = machine();
    let cluster = gated();
    let mut events = curl(&cluster, &["-i", &url(&cluster, "gated")]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let head: Vec<_> = (lines.by_ref().map(Result::unwrap))
        .take_while(|line| !line.is_empty())
        .collect();
    let has = |line: &str| head.iter().any(|it| it.eq_ignore_ascii_case(line));
    assert!(
        has("HTTP/1.1 200 OK") && has("content-type: text/event-stream"),
        "{head:?}"
    );
    assert!(has("x-warmpath-fault: nobody"), "{head:?}");
    assert!(next(&mut lines).starts_with("0 of "));
    let open: u64 = streams(&cluster)
        .iter()
        .map(|report| report["open"].as_u64().unwrap())
        .sum();
    assert_eq!(open, 1, "{:?}", streams(&cluster));
    // Each event comes while the handler waits for us to have seen it.
    tell(&cluster, "0");
    assert!(next(&mut lines).starts_with("1 of "));
    assert_eq!(get(&cluster, "gated/ask?over"), "False");
    events.kill().unwrap();
    events.wait().unwrap();
    // It notices when it goes on, if not before.
    tell(&cluster, "1");
    wait::until("the handler to hear of it", PATIENCE, || {
        Ok((get(&cluster, "gated/ask?over") == "True").then_some(()))
    })
    .unwrap();
    cluster.stop().unwrap();
}

#[test]
fn the_command_line_prints_a_reply_as_it_comes() {
    let _machine = machine();
    let cluster = gated();
    let client = &cluster.topology.client.netns;
    let args = ["fn", "invoke", "gated", "--stream", "--budget-ms", "60000"];
    let mut invoke = client
        .command(warmpath())
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(invoke.stdout.take().unwrap()).lines();
    for number in 0..3 {
        // The handler goes on once it is told that this one was seen.
        let event = next(&mut lines);
        assert!(event.starts_with(&format!("{number} of ")), "{event}");
        assert_eq!(get(&cluster, "gated/ask?over"), "False");
        tell(&cluster, &number.to_string());
    }
    assert!(lines.next().is_none());
    assert!(invoke.wait().unwrap().success());
    assert_eq!(get(&cluster, "gated/ask?over"), "True");

    // What is no stream is printed as it is.
    let program = warmpath().display().to_string();
    let whole = ["fn", "invoke", "hello", r#"{"name": "Ada"}"#, "--stream"];
    let whole = client.run(&program, &whole).unwrap();
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole["greeting"], "Hello, Ada!");
    for (bad, complaint) in [
        (&["no-such-function", "--stream"][..], "unknown"),
        (&["gated", "--stream", "--json"], "cannot be used with"),
    ] {
        let args = [&["fn", "invoke"], bad].concat();
        let error = cluster.cli(&args).unwrap_err().to_string();
        assert!(error.contains(complaint), "{bad:?}: {error}");
    }
    cluster.stop().unwrap();
}

/// Sends `bytes` in chunks, the second one only when the first has come back; what comes back. Not by curl: that reads
/// no reply while its own input is silent.
fn echo(url: &str, bytes: Vec<u8>) -> Vec<u8> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Vec<u8>>(1);
    let body = futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), receiver))
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let body = reqwest::Body::wrap_stream(body);
        let calling = client.post(url).body(body).send();
        let mut pieces = bytes.chunks(9_999).map(<[u8]>::to_vec);
        sender.send(pieces.next().unwrap()).await.unwrap();
        let mut response = calling.await.unwrap();
        let mut echoed = Vec::new();
        while echoed.len() < 9_999 {
            echoed.extend_from_slice(&response.chunk().await.unwrap().unwrap());
        }
        let rest: Vec<_> = pieces.collect();
        let sending = tokio::spawn(async move {
            for piece in rest {
                sender.send(piece).await.unwrap();
            }
        });
        while let Some(piece) = response.chunk().await.unwrap() {
            echoed.extend_from_slice(&piece);
        }
        sending.await.unwrap();
        echoed
    })
}

#[test]
fn ten_megabytes_are_echoed_while_they_are_sent() {
    let _machine = machine();
    let cluster = gated();
    let upper = url(&cluster, "streams/upper");
    let bytes: Vec<u8> = (0..10_000_000_u32)
        .map(|at| b'a' + (at % 23) as u8)
        .collect();
    let expected = bytes.to_ascii_uppercase();
    let client = &cluster.topology.client.netns;
    let echoed = client.enter(|| echo(&upper, bytes)).unwrap();
    assert!(echoed == expected, "{} bytes came back", echoed.len());

    // The same with a length, and a digest for a reply.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &expected).unwrap();
    let (path, digest) = (
        file.path().display().to_string(),
        url(&cluster, "streams/digest"),
    );
    let said = cluster.topology.client.netns.run(
        "curl",
        &[
            "-sS",
            "--max-time",
            "60",
            "-X",
            "POST",
            "-T",
            &path,
            &digest,
        ],
    );
    let said: Value = serde_json::from_str(&said.unwrap()).unwrap();
    let sum = std::process::Command::new("sha256sum")
        .arg(file.path())
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(said["sha256"], sum.split_once(' ').unwrap().0);
    assert_eq!(said["bytes"], 10_000_000);
    // One stream and its bill, for who asks for trailers.
    let billed = curl(&cluster, &["-i", "-H", "TE: trailers", "-d", "abc", &upper]);
    let billed = billed.wait_with_output().unwrap();
    let billed = String::from_utf8(billed.stdout).unwrap();
    let (head, rest) = billed.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("trailer: x-warmpath-bill"), "{billed}");
    assert!(rest.starts_with("ABC"), "{billed}");
    assert!(rest.contains("x-warmpath-bill: cpu_ns="), "{billed}");
    assert!(rest.contains("bytes_in=3, bytes_out=3,"), "{billed}");
    let counters = cluster.counters().unwrap();
    assert_eq!(counters.packets(), counters.outcomes());
    cluster.stop().unwrap();
}

#[test]
fn a_stream_of_a_killed_worker_breaks_off_and_others_serve() {
    let _machine = machine();
    let mut cluster = gated();
    let mut events = curl(&cluster, &[&url(&cluster, "gated")]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let first = next(&mut lines);
    let worker: usize = first.strip_prefix("0 of w").unwrap().parse().unwrap();
    cluster.kill_worker(worker).unwrap();
    assert!(lines.next().is_none_or(|line| line.is_err()));
    let ended = events.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
    // 18: the transfer closed with data remaining; never a clean end.
    assert_eq!(ended.status.code(), Some(18), "{complaint}");
    cluster.wait_worker(worker, "down").unwrap();
    assert_ne!(get(&cluster, "gated/who"), format!("w{worker}"));
}

#[test]
fn forged_and_used_tickets_are_refused() {
    let _machine = machine();
    let cluster = gated();
    let mut events = curl(&cluster, &[&url(&cluster, "gated")]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let first = next(&mut lines);
    let worker: usize = first.strip_prefix("0 of w").unwrap().parse().unwrap();
    let report = &streams(&cluster)[worker];
    let address = report["listen"].as_str().unwrap();
    let code = |ticket: &str| {
        let url = format!("http://{address}/stream/{ticket}");
        let args = [
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "POST",
            &url,
        ];
        cluster.topology.client.netns.run("curl", &args).unwrap()
    };
    assert_eq!(code("00112233445566778899aabbccddeeff"), "404");
    assert_eq!(code("no-ticket"), "404");
    let host = cluster.topology.workers[worker].address();
    let metrics = cluster
        .topology
        .client
        .netns
        .run("curl", &["-sS", &format!("http://{host}:9100/metrics")])
        .unwrap();
    let refused = "worker_stream_tickets_refused_total{reason=\"unknown\"} 2";
    assert!(metrics.contains(refused), "{metrics}");
    assert!(metrics.contains("worker_streams_open 1"), "{metrics}");
    // What is refused harms nobody.
    tell(&cluster, "0");
    assert!(next(&mut lines).starts_with("1 of "));
    events.kill().unwrap();
    events.wait().unwrap();
}
