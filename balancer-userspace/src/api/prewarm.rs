//! Orders of warmth: `/v1/prewarm`.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path as UrlPath, State, rejection::JsonRejection},
    http::StatusCode,
};
use ebpf_common::ids::FunctionId;
use tokio::time::{Instant, sleep};

use super::{
    routes::{Admin, Answer, Refusal},
    types::{OrderRequest, PrewarmStatus},
};
use crate::controller::Command;

/// Longest that an answer waits for what is ordered.
const MAX_WAIT: Duration = Duration::from_mins(5);
/// How often an answer that waits looks at what workers have said.
const LOOK: Duration = Duration::from_millis(50);
/// A function that was deployed a moment ago is in the store before it is in our catalog.
const CATALOG_LAG: Duration = Duration::from_secs(1);

pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<PrewarmStatus>> {
    admin.ask(Command::Prewarms).await
}

/// Answered once what is ordered is there, or `wait_ms` are over; the order stands from the beginning, also if nobody waits
/// for the answer any more.
pub(super) async fn order(
    State(admin): State<Admin>,
    request: Result<Json<OrderRequest>, JsonRejection>,
) -> Answer<PrewarmStatus> {
    let Json(request) =
        request.map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.body_text()))?;
    let started = Instant::now();
    let wait = Duration::from_millis(request.wait_ms.into()).min(MAX_WAIT);
    let mut status = place(&admin, &request).await?;
    while !status.is_met() && started.elapsed() < wait {
        sleep(LOOK).await;
        let Json(all) = admin.ask(Command::Prewarms).await?;
        let now = all.into_iter().find(|it| it.function == status.function);
        let Some(now) = now else {
            // Over, withdrawn, or its function is gone: what there was last is the answer.
            break;
        };
        status = now;
    }
    Ok(Json(status))
}

async fn place(admin: &Admin, request: &OrderRequest) -> Result<PrewarmStatus, Refusal> {
    let started = Instant::now();
    let id = FunctionId::of(&request.function);
    while !is_known(admin, id).await? && started.elapsed() < CATALOG_LAG {
        sleep(LOOK).await;
    }
    let command = |answer| Command::Order {
        request: request.clone(),
        answer,
    };
    let Json(result) = admin.ask(command).await?;
    Ok(result?)
}

async fn is_known(admin: &Admin, id: FunctionId) -> Result<bool, Refusal> {
    let names = |answer| Command::Names {
        functions: vec![id],
        answer,
    };
    let Json(names) = admin.ask(names).await?;
    Ok(names.functions.contains_key(&id))
}

pub(super) async fn withdraw(
    State(admin): State<Admin>,
    UrlPath(function): UrlPath<String>,
) -> Answer<PrewarmStatus> {
    let command = |answer| Command::Withdraw { function, answer };
    let Json(result) = admin.ask(command).await?;
    result.map(Json).map_err(Into::into)
}
