//! A worker without sandboxes: the real RPC server over a scripted invoker.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use balancer_userspace::membership::protocol::Assignment;
use bytes::Bytes;
use db::{Cursor, Embedded, Local, SlotSet};
use ebpf_common::{hash::slot_of_key, ids::FunctionId, wire::Status};
use prometheus::Registry;
use store::{Catalog, CatalogEntry, Digest, Manifest};
use warmpath_sdk::{Call, Client, ClientConfig};
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

use crate::stream::Scripted;

pub(crate) const MS: Duration = Duration::from_millis(1);
/// Of every function here.
pub(crate) const TIMEOUT_MS: u32 = 400;

/// What handlers did.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    by_request: Mutex<HashMap<u64, u32>>,
    pub(crate) running_most: AtomicU32,
    running: AtomicU32,
    /// The events of `collect`, in the order of their calls.
    pub(crate) collected: Mutex<Vec<Bytes>>,
    /// Who paid for these.
    pub(crate) payers: Mutex<Vec<String>>,
}

impl Runs {
    pub(crate) fn requests(&self) -> usize {
        self.by_request.lock().unwrap().len()
    }

    /// Counts a run of `request`; how many it is now.
    fn turn_of(&self, request: u64) -> u32 {
        let mut by_request = self.by_request.lock().unwrap();
        let turn = by_request.entry(request).or_default();
        *turn += 1;
        *turn
    }

    pub(crate) fn most_for_one_request(&self) -> u32 {
        self.by_request
            .lock()
            .unwrap()
            .values()
            .copied()
            .max()
            .unwrap_or(0)
    }
}

/// Does what the function's name says, and keeps deadlines as the pool does.
#[derive(Debug, Clone)]
pub(crate) struct Script(Arc<Runs>);

impl Invoker for Script {
    async fn invoke(&self, invocation: Invocation) -> Outcome {
        let runs = &self.0;
        let turn = runs.turn_of(invocation.request_id);
        let running = runs.running.fetch_add(1, Ordering::Relaxed) + 1;
        runs.running_most.fetch_max(running, Ordering::Relaxed);
        let deadline = invocation.deadline_from(tokio::time::Instant::now());
        let late = match deadline.is_callers {
            true => Outcome::failed(Status::BudgetExceeded, "the caller's time is over"),
            false => Outcome::failed(Status::Timeout, "the function's time is over"),
        };
        if invocation.function.name == "collect" {
            let mut collected = runs.collected.lock().unwrap();
            collected.push(invocation.payload.clone());
            let mut payers = runs.payers.lock().unwrap();
            payers.push(invocation.caller.to_string());
        }
        let outcome = tokio::time::timeout_at(deadline.at, perform(&invocation, turn)).await;
        runs.running.fetch_sub(1, Ordering::Relaxed);
        outcome.unwrap_or(late)
    }
}

/// Of the request's `turn`-th run.
async fn perform(invocation: &Invocation, turn: u32) -> Outcome {
    let name = invocation.function.name.as_str();
    match name {
        "slow" => tokio::time::sleep(100 * MS).await,
        "collect" => tokio::time::sleep(5 * MS).await,
        "refuses" => tokio::time::sleep(30 * MS).await,
        "stuck" => std::future::pending().await,
        _ => (),
    }
    let payload = match name {
        "payer" | "payer2" => invocation.caller.to_string().into(),
        "session" => format!("{:?}", invocation.session).into(),
        "waits" | "naps" => return wait(invocation),
        "streams" => return Outcome::streams(Box::new(Scripted(invocation.payload.clone()))),
        "refuses" if turn <= 2 => return Outcome::failed(Status::SandboxUnavailable, "no room"),
        "raise" => return Outcome::failed(Status::Exception, "ValueError: no"),
        "panic" => panic!("a panic that the test wants"),
        "long" => vec![0; 70_000].into(),
        _ => invocation.payload.clone(),
    };
    Outcome::replied(payload, Usage::default())
}

/// At first, waits for the feed of the key in the event, or for the milliseconds in it; then says what came.
fn wait(invocation: &Invocation) -> Outcome {
    if let Some(wake) = &invocation.wake {
        let state = wake.state.as_deref().unwrap_or_default();
        let reply = format!("{} {} {state}", wake.reason.name(), wake.cursor);
        return Outcome::replied(reply.into(), Usage::default());
    }
    let event = String::from_utf8_lossy(&invocation.payload);
    let is_nap = invocation.function.name == "naps";
    let wait = Wait {
        feed: (!is_nap).then(|| (slot_of_key(event.as_bytes()), Cursor::START)),
        until_ms: is_nap.then(|| event.parse().unwrap()),
        state: Some("s".into()),
    };
    Outcome::waits(wait, Usage::default())
}

/// A database at `path` that has all slots.
pub(crate) fn local(path: &Path) -> Local {
    let metrics = db::Metrics::unregistered();
    Local {
        engine: Arc::new(Embedded::open(path, db::Options::default(), &metrics).unwrap()),
        slots: SlotSet::new(vec!["0-16383".parse().unwrap()]).unwrap(),
    }
}

/// One worker.
pub(crate) struct Bench {
    pub(crate) address: SocketAddr,
    pub(crate) runs: Arc<Runs>,
    pub(crate) functions: Arc<Functions>,
    pub(crate) load: Arc<Load>,
    pub(crate) metrics: RpcMetrics,
    pub(crate) server: Arc<Server<Script>>,
}

impl Bench {
    pub(crate) fn start() -> Self {
        Self::with(1, 1_000, RpcLimits::default())
    }

    pub(crate) fn with(worker_id: u16, capacity: u32, limits: RpcLimits) -> Self {
        let feeds = Arc::new(db::Router::new(None, db::Metrics::unregistered()));
        Self::parking(worker_id, capacity, limits, feeds, ParkLimits::default())
    }

    /// One whose handlers can wait for `feeds`.
    pub(crate) fn parking(
        worker_id: u16,
        capacity: u32,
        limits: RpcLimits,
        feeds: Arc<db::Router>,
        park: ParkLimits,
    ) -> Self {
        let names = [
            "echo", "slow", "stuck", "session", "raise", "panic", "long", "waits", "naps",
            "streams", "collect", "payer", "refuses",
        ];
        let catalog = Catalog {
            revision: 1,
            entries: names.into_iter().map(entry).collect(),
        };
        let identity = Identity::unassigned();
        identity.assign(&Assignment {
            worker_id,
            key_epoch: 1,
            cookie_keys: [[1, 2], [3, 4]],
            load: None,
            slots_version: 1,
            slots: Vec::new(),
            heartbeat_ms: 20,
            keep_warm: Vec::new(),
        });
        let runs = Arc::new(Runs::default());
        let functions = Arc::new(Functions::fixed(catalog));
        let load = Arc::new(Load::new(capacity));
        let metrics = RpcMetrics::register(&Registry::new()).unwrap();
        let parts = Parts {
            invoker: Script(Arc::clone(&runs)),
            functions: Arc::clone(&functions),
            identity: Arc::new(identity),
            load: Arc::clone(&load),
            metrics: metrics.clone(),
            feeds,
            park,
        };
        let server = Server::new(parts, limits);
        let (address, _task) = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        Self {
            address,
            runs,
            functions,
            load,
            metrics,
            server,
        }
    }

    pub(crate) fn client(&self) -> Client {
        client_of(self.address)
    }
}

pub(crate) fn client_of(vip: SocketAddr) -> Client {
    Client::connect(vip, ClientConfig::default()).unwrap()
}

pub(crate) fn call(function: &str) -> Call {
    Call::new(function).budget(10_000 * MS)
}

fn entry(name: &str) -> CatalogEntry {
    version(name, "latest", 1, "")
}

/// What `name@selector` names, with `more` in its manifest.
pub(crate) fn version(name: &str, selector: &str, version: u32, more: &str) -> CatalogEntry {
    let qualified = format!("{name}@{selector}");
    let manifest = format!("name = '{name}'\ntimeout_ms = {TIMEOUT_MS}\npayload = 'bytes'\n{more}");
    CatalogEntry {
        id: FunctionId::of(&qualified),
        name: name.to_owned(),
        qualified,
        version,
        digest: Digest::of(name.as_bytes()),
        manifest: toml::from_str::<Manifest>(&manifest).unwrap(),
    }
}
