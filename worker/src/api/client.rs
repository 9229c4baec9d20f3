//! The admin API's client.

use std::path::{Path, PathBuf};

use reqwest::{RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;

use crate::{
    bill::BillReport,
    log::{LogPage, Wanted},
    park::ParkedReport,
    pool::{PoolStanding, PrewarmReport, PrewarmRequest, ZygoteStatus},
    profile::{ProfileReport, ProfileRequest},
    stream::StreamsReport,
};

/// Why a worker could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client could not be made.
    #[error("cannot make an HTTP client for {}", .socket.display())]
    Client {
        /// The worker's admin socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// Nobody listens on the socket, or we may not connect to it.
    #[error(
        "cannot reach the worker at {}: is it running, is this <state_dir>/worker.sock, and are you in the socket's group?", .socket.display()
    )]
    Unreachable {
        /// The worker's admin socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// It answered that it could not do what was asked.
    #[error("the worker answered {status}: {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its own words.
        message: String,
    },
    /// It answered something else than its API says.
    #[error("the worker's answer to {path} is not what this version expects")]
    Answer {
        /// The path asked for.
        path: &'static str,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
}

/// Speaks to one worker.
#[derive(Debug, Clone)]
pub struct WorkerClient {
    http: reqwest::Client,
    socket: PathBuf,
}

impl WorkerClient {
    /// A client for the admin socket at `socket`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Client`].
    pub fn new(socket: &Path) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .build()
            .map_err(|source| ClientError::Client {
                socket: socket.to_owned(),
                source,
            })?;
        Ok(Self {
            http,
            socket: socket.to_owned(),
        })
    }

    /// The zygotes with packages that run.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn zygotes(&self) -> Result<Vec<ZygoteStatus>, ClientError> {
        let path = "/v1/zygotes";
        self.send(path, self.http.get(url(path))).await
    }

    /// What was billed since the worker's start, or in the last `window_s` seconds.
    ///
    /// # Errors
    /// [`ClientError`], as for every method here.
    pub async fn bills(&self, window_s: Option<u64>) -> Result<BillReport, ClientError> {
        let path = "/v1/bills";
        let query: Vec<_> = window_s
            .iter()
            .map(|seconds| ("window_s", seconds))
            .collect();
        self.send(path, self.http.get(url(path)).query(&query))
            .await
    }

    /// The instances that it has.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pool(&self) -> Result<PoolStanding, ClientError> {
        let path = "/v1/pool";
        self.send(path, self.http.get(url(path))).await
    }

    /// Makes a function warm; the answer comes when it is.
    ///
    /// # Errors
    /// [`ClientError`]; refused with status 404 when there is no such function.
    pub async fn prewarm(&self, request: &PrewarmRequest) -> Result<PrewarmReport, ClientError> {
        let path = "/v1/prewarm";
        self.send(path, self.http.post(url(path)).json(request))
            .await
    }

    /// What is parked.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn parked(&self) -> Result<ParkedReport, ClientError> {
        let path = "/v1/parked";
        self.send(path, self.http.get(url(path))).await
    }

    /// The streams that are offered and open.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn streams(&self) -> Result<StreamsReport, ClientError> {
        let path = "/v1/streams";
        self.send(path, self.http.get(url(path))).await
    }

    /// What `wanted` printed; with `follow`, waits a while until there is something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn logs(&self, wanted: &Wanted, follow: bool) -> Result<LogPage, ClientError> {
        let path = "/v1/logs";
        let (after, follow) = (wanted.after.to_string(), follow.to_string());
        let mut query = vec![
            ("function", wanted.function.as_str()),
            ("after", &after),
            ("follow", &follow),
        ];
        if let Some(request) = &wanted.request {
            query.push(("request", request));
        }
        self.send(path, self.http.get(url(path)).query(&query))
            .await
    }

    /// Where a function spends its time; the answer comes when that was watched for as long as was asked.
    ///
    /// # Errors
    /// [`ClientError`]; refused with status 404 when the worker does not know the function.
    pub async fn profile(&self, request: &ProfileRequest) -> Result<ProfileReport, ClientError> {
        let path = "/v1/profile";
        self.send(path, self.http.post(url(path)).json(request))
            .await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        path: &'static str,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let response = request
            .send()
            .await
            .map_err(|source| ClientError::Unreachable {
                socket: self.socket.clone(),
                source,
            })?;
        let status = response.status();
        if !status.is_success() {
            let message = response.text().await.unwrap_or_default();
            return Err(ClientError::Refused { status, message });
        }
        let answer = response.json().await;
        answer.map_err(|source| ClientError::Answer { path, source })
    }
}

/// The host is of no meaning on a Unix socket, but HTTP wants one.
fn url(path: &str) -> String {
    format!("http://worker{path}")
}
