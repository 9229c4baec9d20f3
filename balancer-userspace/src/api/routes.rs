//! The routes of the admin API and of `/metrics`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, State, rejection::JsonRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::sync::{mpsc, oneshot};

use super::types::{
    ApiError, CounterValue, ExplainRequest, Explanation, FunctionStatus, MapDump, MapInfo,
    SlotsStatus, Status, VipStatus, WorkerStatus,
};
use crate::{
    controller::{Command, CommandError},
    maps::{self, Counters, ReadError},
    metrics::Metrics,
};

/// What every route may need.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    commands: mpsc::Sender<Command>,
    pin_path: Arc<PathBuf>,
}

impl Admin {
    pub(crate) fn new(commands: mpsc::Sender<Command>, pin_path: PathBuf) -> Self {
        Self {
            commands,
            pin_path: Arc::new(pin_path),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Answer<T> {
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

type Answer<T> = Result<Json<T>, Refusal>;

/// An answer that is not 2xx.
#[derive(Debug)]
pub(crate) struct Refusal(StatusCode, String);

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
        Self(StatusCode::INTERNAL_SERVER_ERROR, with_causes(&error))
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        Self(StatusCode::NOT_FOUND, error.to_string())
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
        .route("/v1/counters", get(counters))
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
pub(crate) fn metrics(metrics: Arc<Metrics>, counters: Counters) -> Router {
    let state = Arc::new((metrics, counters));
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(state)
}

async fn scrape(State(state): State<Arc<(Arc<Metrics>, Counters)>>) -> Response {
    let (metrics, counters) = &*state;
    match metrics.render(counters) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => Refusal::from(error).into_response(),
    }
}
