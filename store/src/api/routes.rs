//! The routes of the HTTP API.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /v1/functions?name=NAME` | a bundle; `name` replaces the manifest's | 201, [`Published`](super::types::Published) |
//! | `GET /v1/functions` | | `{"functions": [FunctionSummary]}` |
//! | `GET /v1/functions/{name}` | | [`FunctionDetail`](super::types::FunctionDetail) |
//! | `DELETE /v1/functions/{name}` | | [`Deleted`](super::types::Deleted) |
//! | `PUT /v1/functions/{name}/aliases/{alias}` | [`SetAlias`] | `FunctionDetail` |
//! | `DELETE /v1/functions/{name}/aliases/{alias}` | | `FunctionDetail` |
//! | `GET /v1/catalog` | | [`Catalog`] |
//! | `GET /v1/catalog?after=REVISION&timeout_ms=N` | | `Catalog`, once its revision differs or time is up (N ≤ 30,000) |
//! | `GET /v1/bundles/{digest}` | | the bundle |
//! | `POST /v1/layers` | a layer | 201, [`StoredLayer`](super::types::StoredLayer) |
//! | `GET`, `HEAD /v1/layers/{digest}` | | the layer |
//! | `GET /healthz` | | `ok` |
//! | `GET /metrics` | | Prometheus text |
//!
//! Every error is JSON: [`ErrorBody`](super::types::ErrorBody).

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use prometheus::TextEncoder;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

use super::{
    refusal::Refusal,
    types::{Catalog, FunctionSummary, SetAlias},
};
use crate::{
    digest::Digest, metrics::Metrics, publish::PublishError, repository::Repository,
    unpack::UnpackError,
};

/// Longest wait of a long poll.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Uploads taken in at once; each holds its bundle in memory.
const UPLOADS_MAX: usize = 4;
/// How long an upload may take.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest JSON body.
const JSON_BYTES_MAX: usize = 4 * 1024;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) repository: Arc<Repository>,
    pub(crate) metrics: Metrics,
    /// Becomes true when the server stops: long polls end then.
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) uploads: Arc<Semaphore>,
}

impl Served {
    pub(crate) fn new(
        repository: Arc<Repository>,
        metrics: Metrics,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            repository,
            metrics,
            stop,
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        }
    }

    /// Counts the outcome of a request, and gives it its status.
    fn answer<T: IntoResponse>(
        &self,
        route: &'static str,
        outcome: Result<T, Refusal>,
    ) -> Response {
        match outcome {
            Ok(body) => {
                self.metrics.count(route, "ok");
                body.into_response()
            }
            Err(refusal) => {
                self.metrics.count(route, &refusal.0.kind);
                refusal.into_response()
            }
        }
    }
}

pub(crate) fn routes(served: Served) -> Router {
    Router::new()
        .route("/v1/functions", post(publish).get(list))
        .route("/v1/functions/{name}", get(show).delete(delete_function))
        .route(
            "/v1/functions/{name}/aliases/{alias}",
            put(set_alias).delete(remove_alias),
        )
        .route("/v1/catalog", get(catalog))
        .route("/v1/bundles/{digest}", get(bundle))
        .route("/v1/layers", post(put_layer))
        .route("/v1/layers/{digest}", get(layer))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(exposition))
        .fallback(|| async { Refusal::no_route() })
        .method_not_allowed_fallback(|| async { Refusal::no_method() })
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .with_state(served)
}

/// The routes of a listener that serves nothing but metrics.
pub(crate) fn metrics_routes(served: Served) -> Router {
    Router::new()
        .route("/metrics", get(exposition))
        .with_state(served)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishQuery {
    name: Option<String>,
}

async fn publish(
    State(served): State<Served>,
    query: Result<Query<PublishQuery>, QueryRejection>,
    body: Body,
) -> Response {
    let query = match query {
        Ok(query) => query,
        Err(rejection) => {
            return served.answer::<()>("publish", Err(Refusal::bad_query(&rejection)));
        }
    };
    let outcome = async {
        // Before the first byte is taken in: memory is bounded by the number of permits.
        let _permit = served.uploads.acquire().await;
        let bundle = receive(body, served.repository.limits.bundle_bytes).await?;
        served
            .repository
            .publish(query.name.as_deref(), bundle)
            .await
    };
    let outcome = outcome
        .await
        .map(|published| (StatusCode::CREATED, Json(published)));
    served.answer("publish", outcome.map_err(|error| Refusal::from(&error)))
}

async fn put_layer(State(served): State<Served>, body: Body) -> Response {
    let outcome = async {
        let _permit = served.uploads.acquire().await;
        let layer = receive(body, served.repository.layer_limits.bundle_bytes).await?;
        served.repository.put_layer(layer).await
    };
    let outcome = outcome
        .await
        .map(|stored| (StatusCode::CREATED, Json(stored)));
    served.answer("put_layer", outcome.map_err(|error| Refusal::from(&error)))
}

/// Takes a bundle in, and gives up at the first byte too many.
async fn receive(body: Body, max: u64) -> Result<Bytes, PublishError> {
    let all = async {
        let mut bundle = BytesMut::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| PublishError::Upload {
                reason: error.to_string(),
            })?;
            let given = (bundle.len() + chunk.len()) as u64;
            if given > max {
                return Err(PublishError::Refused(UnpackError::BundleTooLarge {
                    given,
                    max,
                }));
            }
            bundle.extend_from_slice(&chunk);
        }
        Ok(bundle.freeze())
    };
    tokio::time::timeout(UPLOAD_TIMEOUT, all)
        .await
        .unwrap_or_else(|_| {
            Err(PublishError::Upload {
                reason: format!("it took longer than {} s", UPLOAD_TIMEOUT.as_secs()),
            })
        })
}

#[derive(Serialize)]
struct FunctionList {
    functions: Vec<FunctionSummary>,
}

async fn list(State(served): State<Served>) -> Response {
    let functions = served.repository.list();
    served.answer("list", Ok(Json(FunctionList { functions })))
}

async fn show(State(served): State<Served>, Path(name): Path<String>) -> Response {
    let outcome = served.repository.show(&name).map(Json);
    served.answer("show", outcome.map_err(|error| Refusal::from(&error)))
}

async fn delete_function(State(served): State<Served>, Path(name): Path<String>) -> Response {
    let outcome = served.repository.delete(&name).await.map(Json);
    served.answer("delete", outcome.map_err(|error| Refusal::from(&error)))
}

async fn set_alias(
    State(served): State<Served>,
    Path((name, alias)): Path<(String, String)>,
    body: Result<Json<SetAlias>, JsonRejection>,
) -> Response {
    let outcome = match body {
        Ok(Json(SetAlias { version })) => served
            .repository
            .set_alias(&name, &alias, version)
            .await
            .map(Json)
            .map_err(|error| Refusal::from(&error)),
        Err(rejection) => Err(Refusal::bad_json(&rejection)),
    };
    served.answer("set_alias", outcome)
}

async fn remove_alias(
    State(served): State<Served>,
    Path((name, alias)): Path<(String, String)>,
) -> Response {
    let outcome = served
        .repository
        .remove_alias(&name, &alias)
        .await
        .map(Json);
    served.answer(
        "remove_alias",
        outcome.map_err(|error| Refusal::from(&error)),
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogQuery {
    after: Option<u64>,
    #[serde(default)]
    timeout_ms: u64,
}

async fn catalog(
    State(served): State<Served>,
    query: Result<Query<CatalogQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(query) => query,
        Err(rejection) => {
            return served.answer::<()>("catalog", Err(Refusal::bad_query(&rejection)));
        }
    };
    let catalog = match query.after {
        None => served.repository.catalog(),
        Some(after) => {
            let timeout = Duration::from_millis(query.timeout_ms).min(WAIT_MAX);
            wait_for_change(&served, after, timeout).await
        }
    };
    served.answer("catalog", Ok(Json(catalog)))
}

/// The catalog once it differs from `after`, or as it is when time is up or the server stops.
async fn wait_for_change(served: &Served, after: u64, timeout: Duration) -> Catalog {
    let mut states = served.repository.watch();
    let mut stop = served.stop.clone();
    served.metrics.waiting.inc();
    tokio::select! {
        // Which of the three it was does not matter: the answer is the catalog as it is now.
        _ = states.wait_for(|state| state.catalog.revision != after) => {}
        _ = stop.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep(timeout) => {}
    }
    served.metrics.waiting.dec();
    served.repository.catalog()
}

async fn bundle(State(served): State<Served>, Path(digest): Path<String>) -> Response {
    let outcome = match digest.parse::<Digest>() {
        Ok(digest) => served
            .repository
            .bundle(&digest)
            .await
            .map_err(|error| Refusal::from(&error)),
        Err(error) => Err(Refusal::bad_digest(&error)),
    };
    let outcome = outcome.map(|bytes| ([(CONTENT_TYPE, "application/gzip")], bytes));
    served.answer("bundle", outcome)
}

async fn layer(State(served): State<Served>, Path(digest): Path<String>) -> Response {
    let outcome = match digest.parse::<Digest>() {
        Ok(digest) => served
            .repository
            .layer(&digest)
            .await
            .map_err(|error| Refusal::from(&error)),
        Err(error) => Err(Refusal::bad_digest(&error)),
    };
    let outcome = outcome.map(|bytes| ([(CONTENT_TYPE, "application/gzip")], bytes));
    served.answer("layer", outcome)
}

async fn exposition(State(served): State<Served>) -> Response {
    let state = served.repository.state();
    let metrics = &served.metrics;
    metrics.functions.set(state.summaries().len() as i64);
    metrics.entries.set(state.catalog.entries.len() as i64);
    match TextEncoder::new().encode_to_string(&metrics.registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
