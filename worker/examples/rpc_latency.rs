//! What the RPC's two ends cost over loopback, beside a bare UDP echo on the same machine.
//!
//! `cargo run --release -p worker --example rpc_latency`
//!
//! Client and server each have one thread, as processes on two hosts would; no balancer and no
//! sandbox are involved. One request at a time for latency, 64 at a time for throughput.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement for people to read"
)]

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use ebpf_common::ids::FunctionId;
use prometheus::Registry;
use store::{Catalog, CatalogEntry, Digest, Manifest};
use tokio::runtime::Builder;
use warmpath_sdk::{Call, Client, ClientConfig};
use worker::{
    bill::Usage,
    catalog::Functions,
    identity::Identity,
    invoke::Invoker,
    load::Load,
    metrics::RpcMetrics,
    park::ParkLimits,
    pool::{Invocation, Outcome},
    rpc::{Parts, RpcLimits, Server},
};

const WARM_UP: usize = 5_000;
const REQUESTS: usize = 50_000;
const AT_ONCE: usize = 64;
const PAYLOAD: &[u8] = b"{\"name\":\"Ada\"}";

struct Echo;

impl Invoker for Echo {
    async fn invoke(&self, invocation: Invocation) -> Outcome {
        Outcome::replied(invocation.payload, Usage::default())
    }
}

fn main() {
    let echo = raw_echo();
    report("bare UDP echo, blocking sockets", blocking(echo));
    report("bare UDP echo, client on tokio", run(on_tokio(echo)));
    let server = rpc_server();
    report("RPC, hello", run(rpc(server)));
    println!(
        "RPC, {AT_ONCE} in flight: {:.0} requests/s",
        run(throughput(server))
    );
}

fn run<F: Future>(future: F) -> F::Output {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("{what}: p50 {:?}, p99 {:?}", at(50), at(99));
}

fn raw_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2_000];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..len], from).unwrap();
        }
    });
    address
}

fn blocking(echo: SocketAddr) -> Vec<Duration> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(echo).unwrap();
    let mut buffer = [0; 2_000];
    let mut times = Vec::with_capacity(REQUESTS);
    for number in 0..WARM_UP + REQUESTS {
        let begun = Instant::now();
        socket.send(&[7; 64 + PAYLOAD.len()]).unwrap();
        socket.recv(&mut buffer).unwrap();
        if number >= WARM_UP {
            times.push(begun.elapsed());
        }
    }
    times
}

async fn on_tokio(echo: SocketAddr) -> Vec<Duration> {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(echo).await.unwrap();
    let mut buffer = [0; 2_000];
    let mut times = Vec::with_capacity(REQUESTS);
    for number in 0..WARM_UP + REQUESTS {
        let begun = Instant::now();
        socket.send(&[7; 64 + PAYLOAD.len()]).await.unwrap();
        socket.recv(&mut buffer).await.unwrap();
        if number >= WARM_UP {
            times.push(begun.elapsed());
        }
    }
    times
}

async fn rpc(server: SocketAddr) -> Vec<Duration> {
    let client = Client::connect(server, ClientConfig::default()).unwrap();
    let call = Call::new("hello").payload(PAYLOAD);
    let mut times = Vec::with_capacity(REQUESTS);
    for number in 0..WARM_UP + REQUESTS {
        let begun = Instant::now();
        client.call(call.clone()).await.unwrap();
        if number >= WARM_UP {
            times.push(begun.elapsed());
        }
    }
    println!("  {:?}", client.stats());
    times
}

async fn throughput(server: SocketAddr) -> f64 {
    let client = Client::connect(server, ClientConfig::default()).unwrap();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let call = Call::new("hello").payload(PAYLOAD);
                for _ in 0..REQUESTS / AT_ONCE {
                    client.call(call.clone()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("  {:?}", client.stats());
    (REQUESTS / AT_ONCE * AT_ONCE) as f64 / begun.elapsed().as_secs_f64()
}

fn rpc_server() -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        run(async move {
            let parts = Parts {
                invoker: Echo,
                functions: Arc::new(Functions::fixed(catalog())),
                identity: Arc::new(Identity::unassigned()),
                load: Arc::new(Load::new(1_000)),
                metrics: RpcMetrics::register(&Registry::new()).unwrap(),
                feeds: Arc::new(db::Router::new(None, db::Metrics::unregistered())),
                park: ParkLimits::default(),
            };
            let server = Server::new(parts, RpcLimits::default());
            let (address, task) = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
            sender.send(address).unwrap();
            task.await.unwrap();
        });
    });
    receiver.recv().unwrap()
}

fn catalog() -> Catalog {
    let manifest: Manifest = toml::from_str("name = 'hello'").unwrap();
    let entry = CatalogEntry {
        id: FunctionId::of("hello"),
        name: "hello".to_owned(),
        qualified: "hello@latest".to_owned(),
        version: 1,
        digest: Digest::of(b""),
        manifest,
    };
    Catalog {
        revision: 1,
        entries: vec![entry],
    }
}
