//! What can be asked.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use serde::Deserialize;

use crate::{
    bill::BillReport,
    park::ParkedReport,
    pool::{Pool, PoolStanding, ZygoteStatus},
    rpc::Server,
};

/// All routes.
pub(crate) fn router(pool: Arc<Pool>, server: Arc<Server<Arc<Pool>>>) -> Router {
    let parked = Router::new()
        .route("/v1/parked", get(parked))
        .with_state(server);
    Router::new()
        .route("/v1/bills", get(bills))
        .route("/v1/zygotes", get(zygotes))
        .route("/v1/pool", get(standing))
        .with_state(pool)
        .merge(parked)
}

async fn parked(State(server): State<Arc<Server<Arc<Pool>>>>) -> Json<ParkedReport> {
    Json(server.parked_report())
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
