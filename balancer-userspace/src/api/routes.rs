//! The routes of the admin API and of `/metrics`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path as UrlPath, Query, State, rejection::JsonRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::{
    prewarm,
    types::{
        ApiError, CounterValue, ExplainRequest, Explanation, FunctionStatus, KeyEpoch, MapDump,
        MapInfo, PolicyChange, PolicyStatus, Revision, SlotsStatus, Status, TrafficReport,
        VipStatus, WorkerStatus,
    },
};
use crate::{
    config::PolicyFile,
    controller::{Command, CommandError},
    history::{History, HistoryError},
    maps::{self, Counters, ReadError, TrafficMaps},
    metrics::Metrics,
    policy::orders::OrderError,
};

/// Bytes of the longest policy: block lists that are full for both IP versions take half of it.
const POLICY_MAX: usize = 16 << 20;

/// What every route may need.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    commands: mpsc::Sender<Command>,
    pin_path: Arc<PathBuf>,
    history: History,
}

impl Admin {
    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        pin_path: PathBuf,
        policies: PathBuf,
    ) -> Self {
        Self {
            commands,
            pin_path: Arc::new(pin_path),
            history: History::new(policies),
        }
    }

    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Answer<T> {
        let (sender, receiver) = oneshot::channel();
        if self.commands.send(command(sender)).await.is_err() {
            return Err(stopping());
        }
        receiver.await.map(Json).map_err(|_dropped| stopping())
    }

    /// Runs what makes system calls for a while on a thread that may wait.
    async fn read<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
        &self,
        read: impl FnOnce(&Path) -> Result<T, E> + Send + 'static,
    ) -> Answer<T> {
        let pin_path = Arc::clone(&self.pin_path);
        match tokio::task::spawn_blocking(move || read(&pin_path)).await {
            Ok(result) => result.map(Json).map_err(Into::into),
            Err(_panic) => Err(stopping()),
        }
    }
}

impl Admin {
    /// What is counted by VIP, worker and function, under their names.
    async fn traffic(&self) -> Result<TrafficReport, Refusal> {
        let open = |pin_path: &Path| {
            let maps = TrafficMaps::open(pin_path)?;
            let functions = maps.functions()?;
            Ok::<_, ReadError>((maps, functions))
        };
        let Json((maps, calls)) = self.read(open).await?;
        let functions = calls.keys().copied().collect();
        let names = |answer| Command::Names { functions, answer };
        let Json(names) = self.ask(names).await?;
        let report = self.read(move |_pin_path| maps.report(&calls, &names));
        Ok(report.await?.0)
    }
}

pub(super) type Answer<T> = Result<Json<T>, Refusal>;

/// An answer that is not 2xx.
#[derive(Debug)]
pub(crate) struct Refusal(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(ApiError { error: self.1 })).into_response()
    }
}

fn stopping() -> Refusal {
    let text = "the control plane is stopping; the data plane goes on";
    Refusal(StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let status = match error {
            ReadError::Unknown { .. } => StatusCode::NOT_FOUND,
            ReadError::Open(_) | ReadError::Read { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, with_causes(&error))
    }
}

impl From<maps::ExplainError> for Refusal {
    fn from(error: maps::ExplainError) -> Self {
        let status = match error {
            maps::ExplainError::Packet(_) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, with_causes(&error))
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        let status = match &error {
            CommandError::UnknownWorker { .. }
            | CommandError::UnknownFunction { .. }
            | CommandError::NoOrder { .. } => StatusCode::NOT_FOUND,
            CommandError::KeysShared => StatusCode::CONFLICT,
            CommandError::Policy { .. }
            | CommandError::Order(
                OrderError::Count { .. }
                | OrderError::Workers { .. }
                | OrderError::Spread
                | OrderError::Span { .. },
            ) => StatusCode::UNPROCESSABLE_ENTITY,
            CommandError::Order(OrderError::Full) => StatusCode::TOO_MANY_REQUESTS,
            CommandError::NoCatalog | CommandError::NoWorker => StatusCode::SERVICE_UNAVAILABLE,
            CommandError::History(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, with_causes(&error))
    }
}

impl From<HistoryError> for Refusal {
    fn from(error: HistoryError) -> Self {
        let status = match error {
            HistoryError::Unknown { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, with_causes(&error))
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The admin API.
pub(crate) fn admin(admin: Admin) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/workers", get(workers))
        .route("/v1/workers/{name}/drain", post(drain))
        .route("/v1/workers/{name}/undrain", post(undrain))
        .route("/v1/functions", get(functions))
        .route("/v1/slots", get(slots))
        .route("/v1/vips", get(vips))
        .route(
            "/v1/policy",
            get(policy)
                .post(change_policy)
                .layer(DefaultBodyLimit::max(POLICY_MAX)),
        )
        .route("/v1/policy/log", get(policy_log))
        .route("/v1/policy/rollback", post(rollback))
        .route("/v1/keys/rotate", post(rotate_keys))
        .route("/v1/prewarm", get(prewarm::list).post(prewarm::order))
        .route("/v1/prewarm/{name}", delete(prewarm::withdraw))
        .route("/v1/counters", get(counters))
        .route("/v1/traffic", get(traffic))
        .route("/v1/maps", get(list))
        .route("/v1/maps/{name}", get(dump))
        .route("/v1/explain", post(explain))
        .fallback(|| async {
            let text = "no such path; see docs/control-plane.md".to_owned();
            Refusal(StatusCode::NOT_FOUND, text)
        })
        .with_state(admin)
}

async fn status(State(admin): State<Admin>) -> Answer<Status> {
    admin.ask(Command::Status).await
}

async fn workers(State(admin): State<Admin>) -> Answer<Vec<WorkerStatus>> {
    admin.ask(Command::Workers).await
}

async fn functions(State(admin): State<Admin>) -> Answer<Vec<FunctionStatus>> {
    admin.ask(Command::Functions).await
}

async fn slots(State(admin): State<Admin>) -> Answer<SlotsStatus> {
    admin.ask(Command::Slots).await
}

async fn vips(State(admin): State<Admin>) -> Answer<Vec<VipStatus>> {
    admin.ask(Command::Vips).await
}

async fn policy(State(admin): State<Admin>) -> Answer<PolicyStatus> {
    admin.ask(Command::Policy).await
}

async fn policy_log(State(admin): State<Admin>) -> Answer<Vec<Revision>> {
    Ok(Json(admin.history.list()?))
}

/// How a policy is to be changed.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeQuery {
    #[serde(default)]
    dry_run: bool,
    /// For a rollback: the revision to go back to; the one before the last if not given.
    revision: Option<u64>,
}

/// The body is a `policy.toml`.
async fn change_policy(
    State(admin): State<Admin>,
    Query(query): Query<ChangeQuery>,
    body: String,
) -> Answer<PolicyChange> {
    let wrong =
        |error: toml::de::Error| Refusal(StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
    put_in_force(&admin, toml::from_str(&body).map_err(wrong)?, query.dry_run).await
}

async fn rollback(
    State(admin): State<Admin>,
    Query(query): Query<ChangeQuery>,
) -> Answer<PolicyChange> {
    let revision = match query.revision {
        Some(revision) => revision,
        None => {
            let list = admin.history.list()?;
            let before = list.len().checked_sub(2).and_then(|place| list.get(place));
            let Some(before) = before else {
                let text = "there is no revision before this one; `warmpath map log` lists them";
                return Err(Refusal(StatusCode::NOT_FOUND, text.to_owned()));
            };
            before.revision
        }
    };
    put_in_force(&admin, admin.history.read(revision)?, query.dry_run).await
}

async fn put_in_force(admin: &Admin, policy: PolicyFile, is_dry_run: bool) -> Answer<PolicyChange> {
    let command = |answer| Command::ChangePolicy {
        policy,
        is_dry_run,
        answer,
    };
    let Json(result) = admin.ask(command).await?;
    result.map(Json).map_err(Into::into)
}

async fn rotate_keys(State(admin): State<Admin>) -> Answer<KeyEpoch> {
    let Json(result) = admin.ask(Command::RotateKeys).await?;
    result.map(Json).map_err(Into::into)
}

async fn drain(State(admin): State<Admin>, name: UrlPath<String>) -> Answer<WorkerStatus> {
    set_drain(&admin, name.0, true).await
}

async fn undrain(State(admin): State<Admin>, name: UrlPath<String>) -> Answer<WorkerStatus> {
    set_drain(&admin, name.0, false).await
}

async fn set_drain(admin: &Admin, worker: String, is_drained: bool) -> Answer<WorkerStatus> {
    let command = |answer| Command::Drain {
        worker,
        is_drained,
        answer,
    };
    let Json(result) = admin.ask(command).await?;
    result.map(Json).map_err(Into::into)
}

async fn counters(State(admin): State<Admin>) -> Answer<Vec<CounterValue>> {
    admin.read(maps::counters).await
}

async fn traffic(State(admin): State<Admin>) -> Answer<TrafficReport> {
    admin.traffic().await.map(Json)
}

async fn list(State(admin): State<Admin>) -> Answer<Vec<MapInfo>> {
    admin.read(maps::list).await
}

async fn dump(State(admin): State<Admin>, UrlPath(name): UrlPath<String>) -> Answer<MapDump> {
    admin
        .read(move |pin_path| maps::dump(pin_path, &name))
        .await
}

async fn explain(
    State(admin): State<Admin>,
    request: Result<Json<ExplainRequest>, JsonRejection>,
) -> Answer<Explanation> {
    let Json(request) =
        request.map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.body_text()))?;
    let Json(mut explanation) = admin
        .read(move |pin_path| maps::explain(pin_path, &request))
        .await?;
    if let Some(explained) = &mut explanation.worker {
        let Json(workers) = admin.ask(Command::Workers).await?;
        let worker = workers.into_iter().find(|worker| worker.id == explained.id);
        explained.name = worker.map(|worker| worker.name);
    }
    Ok(Json(explanation))
}

/// `/metrics`.
pub(crate) fn metrics(metrics: Arc<Metrics>, counters: Counters, admin: Admin) -> Router {
    let state = Arc::new((metrics, counters, admin));
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(state)
}

async fn scrape(State(state): State<Arc<(Arc<Metrics>, Counters, Admin)>>) -> Response {
    let (metrics, counters, admin) = &*state;
    let traffic = match admin.traffic().await {
        Ok(traffic) => traffic,
        Err(refusal) => return refusal.into_response(),
    };
    match metrics.render(counters, &traffic) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => Refusal::from(error).into_response(),
    }
}
