//! What can be asked.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    routing::{get, post},
};
use serde::Deserialize;

use crate::{
    bill::BillReport,
    catalog::Functions,
    log::{LogPage, Wanted},
    park::ParkedReport,
    pool::{
        Pool, PoolStanding, PrewarmError, PrewarmReport, PrewarmRequest, ProfileError, ZygoteStatus,
    },
    profile::{ProfileReport, ProfileRequest},
    rpc::Server,
    stream::StreamsReport,
};

/// Whoever follows a log is answered after so long, with nothing if there is nothing, and asks again.
const FOLLOW_MAX: Duration = Duration::from_secs(20);

/// All routes.
pub(crate) fn router(
    pool: Arc<Pool>,
    server: Arc<Server<Arc<Pool>>>,
    functions: Arc<Functions>,
) -> Router {
    let parked = Router::new()
        .route("/v1/parked", get(parked))
        .route("/v1/streams", get(streams))
        .with_state(server);
    let warming = Router::new()
        .route("/v1/prewarm", post(prewarm))
        .with_state((Arc::clone(&pool), functions));
    Router::new()
        .route("/v1/bills", get(bills))
        .route("/v1/zygotes", get(zygotes))
        .route("/v1/pool", get(standing))
        .route("/v1/logs", get(logs))
        .route("/v1/profile", post(profile))
        .with_state(pool)
        .merge(parked)
        .merge(warming)
}

async fn prewarm(
    State((pool, functions)): State<(Arc<Pool>, Arc<Functions>)>,
    Json(request): Json<PrewarmRequest>,
) -> Result<Json<PrewarmReport>, (StatusCode, String)> {
    let PrewarmRequest { function, count } = request;
    let warmed = match functions.find(&function).await {
        Some(entry) => pool.prewarm(&entry, count).await,
        None => Err(PrewarmError::Unknown { function }),
    };
    warmed.map(Json).map_err(|error| match &error {
        PrewarmError::Unknown { .. } => (StatusCode::NOT_FOUND, error.to_string()),
        PrewarmError::Code { source, .. } => {
            let message = format!("{error}: {source}");
            (StatusCode::BAD_GATEWAY, message)
        }
    })
}

async fn parked(State(server): State<Arc<Server<Arc<Pool>>>>) -> Json<ParkedReport> {
    Json(server.parked_report())
}

async fn streams(State(server): State<Arc<Server<Arc<Pool>>>>) -> Json<StreamsReport> {
    Json(server.streams())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BillsQuery {
    /// Only what was billed in the last so many seconds.
    window_s: Option<u64>,
}

async fn bills(State(pool): State<Arc<Pool>>, Query(query): Query<BillsQuery>) -> Json<BillReport> {
    Json(pool.bills(query.window_s.map(Duration::from_secs)))
}

async fn standing(State(pool): State<Arc<Pool>>) -> Json<PoolStanding> {
    Json(pool.standing())
}

async fn zygotes(State(pool): State<Arc<Pool>>) -> Json<Vec<ZygoteStatus>> {
    Json(pool.zygotes())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsQuery {
    /// The function's name.
    function: String,
    /// Only this request: 16 hexadecimal digits.
    request: Option<String>,
    /// Only later entries than this one.
    #[serde(default)]
    after: u64,
    /// Wait until there is something.
    #[serde(default)]
    follow: bool,
}

async fn logs(State(pool): State<Arc<Pool>>, Query(query): Query<LogsQuery>) -> Json<LogPage> {
    let wanted = Wanted {
        function: query.function,
        request: query.request,
        after: query.after,
    };
    let logs = pool.logs();
    if query.follow
        && let Ok(page) = tokio::time::timeout(FOLLOW_MAX, logs.follow(&wanted)).await
    {
        return Json(page);
    }
    Json(logs.read(&wanted))
}

async fn profile(
    State(pool): State<Arc<Pool>>,
    Json(request): Json<ProfileRequest>,
) -> Result<Json<ProfileReport>, (StatusCode, String)> {
    pool.profile(&request).await.map(Json).map_err(|error| {
        let status = match &error {
            ProfileError::Range => StatusCode::BAD_REQUEST,
            ProfileError::Unknown { .. } => StatusCode::NOT_FOUND,
            ProfileError::Runtime { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ProfileError::Busy { .. } => StatusCode::CONFLICT,
        };
        (status, error.to_string())
    })
}
