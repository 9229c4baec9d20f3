//! Streams through the gateway: a worker written by hand says what goes over its TCP connection, byte by byte.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ebpf_common::{
    ids::FunctionId,
    wire::{Kind, RpcHeader, StreamPlace, Ticket, flags},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};

use crate::bench::{Bench, client, header};

const HEAD: &str = "HTTP/1.1 201 Created\r\nx-warmpath-status: ok\r\nx-mine: 1\r\nx-warmpath-fault: caller\r\n\
                    trailer: x-warmpath-bill\r\ntransfer-encoding: chunked\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(10);

/// What each function's exchange is like; its place in the list is in its ticket.
const FUNCTIONS: [&str; 6] = [
    "s-events",
    "s-broken",
    "s-raised",
    "s-refused",
    "s-echo",
    "s-nobody",
];

/// Where the exchanges are, and what the test and the worker tell each other.
#[derive(Debug, Clone)]
pub(crate) struct Exchanges {
    address: SocketAddr,
    wires: Arc<Wires>,
}

#[derive(Debug, Default)]
struct Wires {
    go_on: Notify,
    hung_up: Notify,
    waits: Notify,
}

impl Exchanges {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let exchanges = Self {
            address: listener.local_addr().unwrap(),
            wires: Arc::default(),
        };
        let wires = Arc::clone(&exchanges.wires);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&wires)));
            }
        });
        exchanges
    }

    /// A call has come that is not answered.
    pub(crate) fn is_kept_waiting(&self) {
        self.wires.waits.notify_one();
    }

    /// Waits for one.
    pub(crate) async fn someone_waits(&self) {
        let waits = self.wires.waits.notified();
        timeout(PATIENCE, waits).await.expect("a call comes");
    }

    /// The answer to a call of a function whose reply is a stream.
    pub(crate) fn answer(&self, request: RpcHeader) -> Option<Vec<u8>> {
        let is_it = |name: &&str| request.function == FunctionId::of(name);
        let index = FUNCTIONS.iter().position(is_it)?;
        assert!(request.has(flags::STREAM), "the gateway takes streams");
        let follows = request.has(flags::BODY_FOLLOWS);
        assert_eq!(follows, FUNCTIONS[index] == "s-echo");
        let address = match FUNCTIONS[index] {
            "s-nobody" => "127.0.0.1:1".parse().unwrap(),
            _ => self.address,
        };
        let place = StreamPlace {
            ticket: Ticket([index as u8; 16]),
            address,
        };
        let header = RpcHeader {
            kind: Kind::Response,
            flags: flags::FIRST | flags::LAST | flags::STREAM,
            payload_len: 34,
            budget_ms: 0,
            ..request
        };
        Some([&header.emit()[..], &place.emit()].concat())
    }
}

async fn serve(mut stream: TcpStream, wires: Arc<Wires>) {
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "no head");
    }
    let text = String::from_utf8_lossy(&read).into_owned();
    let (_, path) = text.split_once("POST /stream/").expect("it is an exchange");
    assert!(text.contains("te: trailers"), "{text}");
    let function = FUNCTIONS[usize::from_str_radix(&path[..2], 16).unwrap()];
    let mut say = async |text: &str| stream.write_all(text.as_bytes()).await.unwrap();
    match function {
        "s-events" => {
            say(HEAD).await;
            say("5\r\nfirst\r\n").await;
            tokio::select! {
                () = wires.go_on.notified() => (),
                end = stream.read_u8() => {
                    assert!(end.is_err(), "nothing follows");
                    return wires.hung_up.notify_one();
                }
            }
            stream
                .write_all(b"6\r\nsecond\r\n0\r\nx-warmpath-bill: cpu_ns=1\r\n\r\n")
                .await
                .unwrap();
        }
        "s-broken" => {
            say(HEAD).await;
            say("5\r\nfirst\r\n").await;
        }
        "s-raised" => {
            say("HTTP/1.1 500 X\r\nx-warmpath-status: exception\r\ncontent-length: 7\r\n\r\nbecause").await;
        }
        "s-refused" => say("HTTP/1.1 410 Gone\r\ncontent-length: 2\r\n\r\nno").await,
        _ => {
            // What comes is framed as what goes, so that an echo needs to know no more.
            let length = text
                .lines()
                .find(|line| line.starts_with("content-length: "));
            let chunked = "transfer-encoding: chunked";
            say(&HEAD.replace(chunked, length.unwrap_or(chunked))).await;
            let length = length.map(|line| line["content-length: ".len()..].parse().unwrap());
            let (_, rest) = text.split_once("\r\n\r\n").unwrap();
            let (mut body, mut echoed) = (rest.as_bytes().to_vec(), 0);
            loop {
                stream.write_all(&body).await.unwrap();
                echoed += body.len();
                if body.ends_with(b"0\r\n\r\n") || length == Some(echoed) {
                    return;
                }
                body.clear();
                assert_ne!(stream.read_buf(&mut body).await.unwrap(), 0, "half a body");
            }
        }
    }
}

#[tokio::test]
async fn pieces_pass_as_they_come_and_the_bill_follows_them() {
    let bench = Bench::start().await;
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let head = "GET /run/s-events HTTP/1.1\r\nhost: x\r\nte: trailers\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"5\r\nfirst\r\n") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
    let head = String::from_utf8_lossy(&read).to_ascii_lowercase();
    for line in [
        "http/1.1 201 created",
        "x-mine: 1",
        "x-warmpath-status: ok",
        "x-warmpath-fault: nobody",
        "trailer: x-warmpath-bill",
        "set-cookie: warmpath_session=",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert!(!head.contains("x-warmpath-fault: caller"), "{head}");
    read.clear();
    bench.exchanges.wires.go_on.notify_one();
    while !read.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
    let rest = String::from_utf8_lossy(&read).into_owned();
    assert_eq!(
        rest,
        "6\r\nsecond\r\n0\r\nx-warmpath-bill: cpu_ns=1\r\n\r\n"
    );
    assert_eq!(bench.count("gateway_streams_total{end=\"whole\"}").await, 1);
    assert_eq!(bench.count("gateway_streams_open").await, 0);
}

#[tokio::test]
async fn a_stream_that_breaks_off_never_looks_whole() {
    let bench = Bench::start().await;
    let response = client()
        .get(format!("{}/run/s-broken", bench.base))
        .send()
        .await;
    let mut response = response.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "first");
    assert!(response.chunk().await.is_err());
    assert_eq!(
        bench.count("gateway_streams_total{end=\"broken\"}").await,
        1
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_exchange() {
    let bench = Bench::start().await;
    let response = client()
        .get(format!("{}/run/s-events", bench.base))
        .send()
        .await;
    let mut response = response.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "first");
    drop(response);
    let hung_up = bench.exchanges.wires.hung_up.notified();
    timeout(PATIENCE, hung_up)
        .await
        .expect("the worker hears of it");
    assert_eq!(
        bench.count("gateway_streams_total{end=\"hung_up\"}").await,
        1
    );
}

#[tokio::test]
async fn what_is_no_stream_says_whose_fault_it_is() {
    let bench = Bench::start().await;
    for (function, code, status, fault) in [
        ("s-raised", 500, "exception", "function"),
        ("s-refused", 503, "outcome_unknown", "platform"),
        ("s-nobody", 503, "outcome_unknown", "platform"),
    ] {
        let response = client()
            .get(format!("{}/run/{function}", bench.base))
            .send()
            .await;
        let response = response.unwrap();
        assert_eq!(response.status(), code, "{function}");
        assert_eq!(header(&response, "x-warmpath-status"), status, "{function}");
        assert_eq!(header(&response, "x-warmpath-fault"), fault, "{function}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["retryable"], false, "{function}: {body}");
    }
}

#[tokio::test]
async fn a_body_without_a_length_or_beyond_a_message_follows_its_call() {
    let bench = Bench::start().await;
    let long = "1234567890".repeat(10_000);
    let response = bench
        .post("s-echo")
        .body(long.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 201);
    assert!(response.text().await.unwrap() == long);

    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let head =
        "POST /run/s-echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    // It is back before the body has ended.
    while !read.ends_with(b"5\r\nfirst\r\n") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
    stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    read.clear();
    while !read.ends_with(b"0\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
    assert!(read.starts_with(b"6\r\nsecond\r\n"));
}
