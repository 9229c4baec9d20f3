//! A worker that keeps calls which nobody waits for, in a database that outlives it.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use db::Op;
use prometheus::{Registry, TextEncoder};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use warmpath_sdk::{
    Client,
    deferred::{Ask, CallId, Report, State},
    http,
};
use worker::{
    deferred::{DeferredLimits, DeferredMetrics, Shelves},
    park::ParkLimits,
    rpc::RpcLimits,
};

use crate::bench::{Bench, MS, local};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A worker whose database lies at `path`, and which can keep calls.
pub(crate) struct Keeper {
    pub(crate) bench: Bench,
    pub(crate) client: Client,
    pub(crate) shelves: Arc<Shelves>,
    pub(crate) db: Arc<db::Router>,
    pub(crate) registry: Registry,
    /// Those that make the calls; none until [`Keeper::make`].
    makers: JoinSet<()>,
}

impl Keeper {
    /// One that tries twice, and makes no calls yet.
    pub(crate) fn start(path: &Path) -> Self {
        let db = Arc::new(db::Router::new(
            Some(local(path)),
            db::Metrics::unregistered(),
        ));
        let (limits, park) = (RpcLimits::default(), ParkLimits::default());
        let bench = Bench::parking(1, 100, limits, Arc::clone(&db), park);
        let limits = DeferredLimits {
            attempts: 2,
            backoff_ms: 20,
            ..DeferredLimits::default()
        };
        let registry = Registry::new();
        let metrics = DeferredMetrics::register(&registry).unwrap();
        let functions = Arc::clone(&bench.functions);
        let shelves = Shelves::new(Arc::clone(&db), functions, limits, metrics);
        bench.server.keep_calls(Arc::clone(&shelves));
        Self {
            client: bench.client(),
            bench,
            shelves,
            db,
            registry,
            makers: JoinSet::new(),
        }
    }

    /// From now on, makes the calls.
    pub(crate) fn make(&mut self) {
        let makers = &mut self.makers;
        self.shelves
            .serve(|_| true, &self.client, &self.bench.load, makers);
    }

    pub(crate) async fn ask(&self, ask: &Ask, event: &[u8]) -> Bytes {
        let call = ask.call(event).unwrap();
        self.client.call(call).await.unwrap().payload
    }

    pub(crate) async fn report(&self, id: CallId) -> (Report, Bytes) {
        http::split(&self.ask(&Ask::Outcome { id }, b"").await).unwrap()
    }

    pub(crate) fn metrics(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap()
    }

    pub(crate) async fn put(&self, key: &str, value: &str) {
        let put = Op::Put {
            key: key.into(),
            value: value.into(),
        };
        self.db.execute(put).await.unwrap();
    }

    /// Waits until the metrics have this line: what a call came to can be read a moment before it is counted.
    pub(crate) async fn counts(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.metrics();
            if text.lines().any(|it| it == line) {
                return;
            }
            assert!(Instant::now() < deadline, "{line} is not in {text}");
            sleep(5 * MS).await;
        }
    }

    /// The report of a call once it is `state`.
    pub(crate) async fn once(&self, id: CallId, state: State) -> (Report, Bytes) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (report, body) = self.report(id).await;
            if report.state == state {
                return (report, body);
            }
            assert!(Instant::now() < deadline, "{report:?}");
            sleep(5 * MS).await;
        }
    }
}

/// Runs `work` with a runtime of its own, which ends as in a crash: nothing is finished, and the database is closed.
pub(crate) fn until_crash<R>(work: impl Future<Output = R>) -> R {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}
