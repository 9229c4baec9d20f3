//! What a parked request costs: `cargo run --release -p worker --example parked -- [COUNT]` (default 100,000).
//!
//! The real RPC server and an embedded database in this process, a handler that waits at once, and one UDP client that
//! keeps nothing of a request but whether it was answered. Prints memory for each parked request, and how long parking
//! all of them and waking all of them by one write took.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "an example: what cannot be measured is an error where it stands, what can is printed"
)]

use std::{
    collections::HashSet,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use db::{Cursor, Embedded, Local, Op, SlotSet};
use ebpf_common::{
    hash::slot_of_key,
    ids::FunctionId,
    wire::{RpcHeader, Status, flags},
};
use prometheus::Registry;
use store::{Catalog, CatalogEntry, Digest, Manifest};
use worker::{
    bill::Usage,
    catalog::Functions,
    identity::Identity,
    invoke::Invoker,
    load::Load,
    metrics::RpcMetrics,
    park::{ParkLimits, Wait},
    pool::{Invocation, Outcome},
    rpc::{Parts, RpcLimits, Server},
};

const COUNT: u64 = 100_000;
const EVENT: [u8; 64] = [b'e'; 64];
const STATE: &str = "0123456789abcdef0123456789abcdef";
const KEY: &[u8] = b"{feed}";
/// Requests sent before their acknowledgements are waited for.
const BURST: u64 = 128;
const PATIENCE: Duration = Duration::from_millis(300);

/// Waits for the feed once, then replies with its event.
struct Waits;

impl Invoker for Waits {
    async fn invoke(&self, invocation: Invocation) -> Outcome {
        if invocation.wake.is_some() {
            return Outcome::replied(invocation.payload, Usage::default());
        }
        let wait = Wait {
            feed: Some((slot_of_key(KEY), Cursor::START)),
            until_ms: None,
            state: Some(STATE.into()),
        };
        Outcome::waits(wait, Usage::default())
    }
}

fn main() {
    let count = std::env::args()
        .nth(1)
        .map_or(COUNT, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let feeds = open(dir.path());
    let (server, address) = serve(Arc::clone(&feeds));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // Once around, so that what is allocated once is not counted.
    park(&client, 0..BURST);
    let (before, begun) = (resident(), Instant::now());
    park(&client, BURST..BURST + count);
    let (after, took) = (resident(), begun.elapsed());
    let (parked, bytes) = server.parked();
    println!(
        "parked: {parked} requests in {took:?}, {:.0}/s",
        count as f64 / took.as_secs_f64()
    );
    println!(
        "memory: {} B each resident, {} B each by its own books",
        (after - before) / count,
        bytes as u64 / parked as u64
    );
    let begun = Instant::now();
    let put = Op::Put {
        key: KEY.to_vec(),
        value: Vec::new(),
    };
    runtime.block_on(feeds.execute(put)).unwrap();
    let first = answered(&client, BURST + count);
    println!(
        "woken by one write: first reply after {:?}, all {} after {:?}",
        first - begun,
        BURST + count,
        begun.elapsed()
    );
}

fn open(path: &std::path::Path) -> Arc<db::Router> {
    let metrics = db::Metrics::unregistered();
    let local = Local {
        engine: Arc::new(Embedded::open(path, db::Options::default(), &metrics).unwrap()),
        slots: SlotSet::new(vec!["0-16383".parse().unwrap()]).unwrap(),
    };
    Arc::new(db::Router::new(Some(local), metrics))
}

fn serve(feeds: Arc<db::Router>) -> (Arc<Server<Waits>>, SocketAddr) {
    let entry = CatalogEntry {
        id: FunctionId::of("waits"),
        name: "waits".to_owned(),
        qualified: "waits@latest".to_owned(),
        version: 1,
        digest: Digest::of(b"waits"),
        manifest: toml::from_str::<Manifest>("name = 'waits'").unwrap(),
    };
    let catalog = Catalog {
        revision: 1,
        entries: vec![entry],
    };
    let parts = Parts {
        invoker: Waits,
        functions: Arc::new(Functions::fixed(catalog)),
        identity: Arc::new(Identity::unassigned()),
        load: Arc::new(Load::new(256)),
        metrics: RpcMetrics::register(&Registry::new()).unwrap(),
        feeds,
        park: ParkLimits::default(),
    };
    // A burst of replies is more than the client's socket takes: what it lost is asked for, however long that lasts.
    let limits = RpcLimits {
        reply_cache_ms: 120_000,
        ..RpcLimits::default()
    };
    let server = Server::new(parts, limits);
    let (address, _task) = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    (server, address)
}

/// Sends the requests, in bursts, until each has been acknowledged.
fn park(client: &UdpSocket, ids: std::ops::Range<u64>) {
    let mut next = ids.start;
    while next < ids.end {
        let mut open: HashSet<u64> = (next..ids.end.min(next + BURST)).collect();
        next += BURST;
        while !open.is_empty() {
            for id in &open {
                send(client, *id, 0);
            }
            while !open.is_empty()
                && let Some(header) = receive(client)
            {
                assert_eq!(header.status, Status::Continue as u16);
                open.remove(&header.request_id);
            }
        }
    }
}

/// Receives a reply to every request; asks for those that were lost. When the first one came.
fn answered(client: &UdpSocket, count: u64) -> Instant {
    client
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut open: HashSet<u64> = (0..count).collect();
    let mut first = None;
    while !open.is_empty() {
        match receive(client) {
            Some(header) if header.status == Status::Ok as u16 => {
                first.get_or_insert_with(Instant::now);
                open.remove(&header.request_id);
            }
            Some(_) => (),
            None => open
                .iter()
                .take(500)
                .for_each(|id| send(client, *id, flags::RESUME)),
        }
    }
    first.unwrap()
}

fn send(client: &UdpSocket, id: u64, flag: u16) {
    let held = [0; 8];
    let payload: &[u8] = if flag == flags::RESUME { &held } else { &EVENT };
    let request = RpcHeader::request(FunctionId::of("waits"), id);
    let header = RpcHeader {
        flags: request.flags | flag,
        budget_ms: 3_600_000,
        payload_len: payload.len() as u32,
        ..request
    };
    client.send(&[&header.emit(), payload].concat()).unwrap();
}

fn receive(client: &UdpSocket) -> Option<RpcHeader> {
    let mut buffer = [0; 2_000];
    let len = client.recv(&mut buffer).ok()?;
    Some(RpcHeader::parse(&buffer[..len]).unwrap().unwrap().0)
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}
