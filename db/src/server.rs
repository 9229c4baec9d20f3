//! The HTTP server of a shard, for other workers and for people; and the stand-alone role around it.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/op` | an op, encoded as [`crate::codec`] says | a reply, encoded likewise |
//! | `GET /v1/status` | | JSON [`Status`] |
//! | `GET /v1/feeds/{slot}` | | JSON [`FeedHead`]; with `?after=N&wait_ms=M` once it is beyond N, or M ms are over |
//! | `GET /healthz` | | `ok`, or 503 once the engine is poisoned |
//! | `GET /metrics` | | Prometheus text (the role only) |
//!
//! Every error is JSON: [`ErrorBody`]. An op for a slot that is not owned here is answered with status
//! 421 and kind `moved`, naming what is owned.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ebpf_common::{ids::SlotId, limits::SLOTS};
use prometheus::{Registry, TextEncoder};
use serde::Deserialize;
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{
    api::{
        codec,
        types::{ErrorBody, FeedHead, Status},
    },
    client,
    config::Config,
    engine::embedded::{Embedded, OpenError},
    error::DbError,
    limits::OP_BYTES_MAX,
    metrics::Metrics,
    op::Cursor,
    router::Local,
};

/// How long connections may finish after a stop was asked for.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait of one long poll for a feed's move.
const POLL_MAX: Duration = Duration::from_secs(60);

/// Why the db role ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine cannot be opened.
    #[error("the db role cannot open its engine: {0}")]
    Open(#[source] OpenError),
    /// The address is taken.
    #[error(
        "the db role cannot listen on {listen}: the address is in use; stop what uses it (`ss -ltnp`) or set `{key}` to another"
    )]
    AddressInUse {
        /// The address.
        listen: SocketAddr,
        /// The key that sets it.
        key: &'static str,
    },
    /// The address cannot be listened on.
    #[error("the db role cannot listen on {listen}: check that `{key}` is an address of this host")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The key that sets it.
        key: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The counters cannot be registered.
    #[error("the db role cannot register its metrics")]
    Metrics(#[source] prometheus::Error),
    /// The engine's folder cannot be opened on a blocking thread.
    #[error("the db role was stopped while opening {}", path.display())]
    Interrupted {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: tokio::task::JoinError,
    },
    /// Serving failed.
    #[error("the db role stopped serving on {listen}")]
    Serve {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Clone)]
struct Served {
    local: Local,
    metrics: Metrics,
}

struct Refusal(DbError);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = ErrorBody::from(self.0);
        let status = StatusCode::from_u16(body.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(body)).into_response()
    }
}

/// The routes of the API over `local`, without `/metrics`: for a process that has its own.
pub fn router(local: Local, metrics: Metrics) -> Router {
    Router::new()
        .route("/v1/op", post(execute))
        .route("/v1/status", get(status))
        .route("/v1/feeds/{slot}", get(feed_head))
        .route("/healthz", get(healthz))
        .layer(DefaultBodyLimit::max(OP_BYTES_MAX))
        .with_state(Served { local, metrics })
}

/// Runs a stand-alone shard until `stop` becomes true.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), RunError> {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).map_err(RunError::Metrics)?;
    // Before the engine: a busy port should not cost a recovery.
    let listener = bind(config.listen, "listen").await?;
    let engine = {
        let (path, options, metrics) = (
            config.path.clone(),
            config.engine_options(),
            metrics.clone(),
        );
        // Recovery reads whole journals.
        tokio::task::spawn_blocking(move || Embedded::open(&path, options, &metrics))
            .await
            .map_err(|source| RunError::Interrupted {
                path: config.path.clone(),
                source,
            })?
            .map_err(RunError::Open)?
    };
    let local = Local {
        engine: Arc::new(engine),
        slots: config.slots.clone(),
    };
    let metrics_routes = Router::new()
        .route("/metrics", get(exposition))
        .with_state(registry);
    let routes = router(local, metrics).merge(metrics_routes.clone());
    if let Some(listen) = config.metrics_listen {
        let listener = bind(listen, "metrics_listen").await?;
        tokio::spawn(serve(listener, metrics_routes, stop.clone()));
    }
    info!(listen = %config.listen, slots = %config.slots, path = %config.path.display(), "db is up");
    serve(listener, routes, stop)
        .await
        .map_err(|source| RunError::Serve {
            listen: config.listen,
            source,
        })
}

async fn bind(listen: SocketAddr, key: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(listen).await.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            RunError::AddressInUse { listen, key }
        } else {
            RunError::Listen {
                listen,
                key,
                source,
            }
        }
    })
}

/// Serves until `stop`, then lets requests finish for a while.
async fn serve(
    listener: TcpListener,
    routes: Router,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut graceful = stop.clone();
    let mut deadline = stop;
    let server = axum::serve(listener, routes).with_graceful_shutdown(async move {
        // An error means that the sender is gone, which is a stop as well.
        drop(graceful.wait_for(|stop| *stop).await);
    });
    tokio::select! {
        outcome = server => outcome,
        () = async move {
            drop(deadline.wait_for(|stop| *stop).await);
            tokio::time::sleep(STOP_TIMEOUT).await;
        } => {
            warn!("connections were still open when the time to stop ran out");
            Ok(())
        }
    }
}

async fn execute(
    State(served): State<Served>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let malformed = |reason: String| Refusal(DbError::Malformed { reason });
    let body = body.map_err(|rejection| malformed(rejection.body_text()))?;
    let op = codec::decode_op(&body).map_err(|error| malformed(error.to_string()))?;
    let kind = op.kind();
    let outcome = served.local.execute(op).await;
    served.metrics.count_served(kind, outcome.as_ref());
    let reply = codec::encode_reply(&outcome.map_err(Refusal)?);
    Ok(([(CONTENT_TYPE, client::CONTENT_TYPE)], reply).into_response())
}

async fn status(State(served): State<Served>) -> Json<Status> {
    let health = served.local.engine.health();
    Json(Status {
        slots: served.local.slots,
        writable: !health.poisoned,
        disk_bytes: health.disk_bytes,
        commits: health.commits,
        syncs: health.syncs,
    })
}

/// How long to wait for what. Without a query the head is told at once.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Poll {
    after: Cursor,
    wait_ms: u64,
}

async fn feed_head(
    State(served): State<Served>,
    slot: Result<Path<u16>, PathRejection>,
    query: Result<Query<Poll>, QueryRejection>,
) -> Result<Json<FeedHead>, Refusal> {
    let malformed = |reason| Refusal(DbError::Malformed { reason });
    let Path(slot) = slot.map_err(|rejection| malformed(rejection.body_text()))?;
    let Query(poll) = query.map_err(|rejection| malformed(rejection.body_text()))?;
    if u32::from(slot) >= SLOTS {
        return Err(Refusal(DbError::BadSlot { slot }));
    }
    if !served.local.slots.contains(SlotId(slot)) {
        return Err(Refusal(DbError::Moved {
            slot,
            owned: served.local.slots,
        }));
    }
    let patience = Duration::from_millis(poll.wait_ms).min(POLL_MAX);
    let moved = served.local.feed_moved(SlotId(slot), poll.after);
    let head = match tokio::time::timeout(patience, moved).await {
        Ok(head) => head,
        Err(_elapsed) => served.local.engine.feed_head(SlotId(slot)),
    }
    .map_err(Refusal)?;
    Ok(Json(FeedHead { slot, head }))
}

async fn healthz(State(served): State<Served>) -> (StatusCode, &'static str) {
    if served.local.engine.health().poisoned {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "poisoned: a commit failed; no writes until restart\n",
        )
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn exposition(State(registry): State<Registry>) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
