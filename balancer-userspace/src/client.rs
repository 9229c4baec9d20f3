//! The admin API's client: what `warmpath status`, `map dump` and `route explain` speak.

use std::path::{Path, PathBuf};

#[cfg(feature = "server")]
use crate::api::types::PolicyStatus;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::api::types::{
    ApiError, CounterValue, ExplainRequest, Explanation, FunctionStatus, KeyEpoch, MapDump,
    MapInfo, OrderRequest, PolicyChange, PrewarmStatus, Revision, SlotsStatus, Status,
    TrafficReport, VipStatus, WorkerStatus,
};

/// Why the control plane could not be asked.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The client could not be made.
    #[error("cannot make an HTTP client for {socket}")]
    Client {
        /// The admin socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// Nobody listens on the socket, or we may not connect to it.
    #[error(
        "cannot reach the control plane at {socket}: is `warmpath balancer` running, and are you in the socket's group?"
    )]
    Unreachable {
        /// The admin socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// It answered that it could not do what was asked.
    #[error("the control plane answered {status} to {path}: {message}")]
    Refused {
        /// The path asked for.
        path: String,
        /// HTTP status.
        status: StatusCode,
        /// Its own words.
        message: String,
    },
    /// It answered something else than its API says.
    #[error("the control plane's answer to {path} is not what this version expects")]
    Answer {
        /// The path asked for.
        path: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
}

/// `text` as one segment of a path, whatever it holds.
fn path_segment(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'@' => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

/// Speaks to one control plane.
#[derive(Debug, Clone)]
pub struct AdminClient {
    http: reqwest::Client,
    socket: PathBuf,
}

impl AdminClient {
    /// A client for the admin socket at `socket`; nothing is sent yet.
    ///
    /// # Errors
    /// [`AdminError::Client`].
    pub fn new(socket: &Path) -> Result<Self, AdminError> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .build()
            .map_err(|source| AdminError::Client {
                socket: socket.to_owned(),
                source,
            })?;
        Ok(Self {
            http,
            socket: socket.to_owned(),
        })
    }

    /// How the control plane and the program are.
    ///
    /// # Errors
    /// [`AdminError`], as for every method here.
    pub async fn status(&self) -> Result<Status, AdminError> {
        self.get("/v1/status").await
    }

    /// All workers that are known, by id.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn workers(&self) -> Result<Vec<WorkerStatus>, AdminError> {
        self.get("/v1/workers").await
    }

    /// All functions in the data plane.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn functions(&self) -> Result<Vec<FunctionStatus>, AdminError> {
        self.get("/v1/functions").await
    }

    /// Who holds which slots.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn slots(&self) -> Result<SlotsStatus, AdminError> {
        self.get("/v1/slots").await
    }

    /// The VIPs answered for.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn vips(&self) -> Result<Vec<VipStatus>, AdminError> {
        self.get("/v1/vips").await
    }

    /// The policy in force.
    ///
    /// # Errors
    /// [`AdminError`].
    #[cfg(feature = "server")]
    pub async fn policy(&self) -> Result<PolicyStatus, AdminError> {
        self.get("/v1/policy").await
    }

    /// Puts `policy`, a `policy.toml`, in force, or says what that would change.
    ///
    /// # Errors
    /// [`AdminError`]; then nothing has changed.
    pub async fn change_policy(
        &self,
        policy: &str,
        is_dry_run: bool,
    ) -> Result<PolicyChange, AdminError> {
        let path = format!("/v1/policy?dry_run={is_dry_run}");
        let request = self.request(Method::POST, &path).body(policy.to_owned());
        self.send(&path, request).await
    }

    /// The policies that were applied.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn policy_log(&self) -> Result<Vec<Revision>, AdminError> {
        self.get("/v1/policy/log").await
    }

    /// Puts the policy of `revision`, or of the one before the last, in force again.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn rollback_policy(
        &self,
        revision: Option<u64>,
        is_dry_run: bool,
    ) -> Result<PolicyChange, AdminError> {
        let revision =
            revision.map_or_else(String::new, |revision| format!("&revision={revision}"));
        self.post(&format!(
            "/v1/policy/rollback?dry_run={is_dry_run}{revision}"
        ))
        .await
    }

    /// Makes new keys now.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn rotate_keys(&self) -> Result<KeyEpoch, AdminError> {
        self.post("/v1/keys/rotate").await
    }

    /// Every counter of the program.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn counters(&self) -> Result<Vec<CounterValue>, AdminError> {
        self.get("/v1/counters").await
    }

    /// Packets and bytes by VIP, worker and function.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn traffic(&self) -> Result<TrafficReport, AdminError> {
        self.get("/v1/traffic").await
    }

    /// The BPF maps.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn maps(&self) -> Result<Vec<MapInfo>, AdminError> {
        self.get("/v1/maps").await
    }

    /// The entries of map `name`.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn map(&self, name: &str) -> Result<MapDump, AdminError> {
        self.get(&format!("/v1/maps/{name}")).await
    }

    /// What the loaded program does with the packet that `request` describes.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn explain(&self, request: &ExplainRequest) -> Result<Explanation, AdminError> {
        let path = "/v1/explain";
        self.send(path, self.request(Method::POST, path).json(request))
            .await
    }

    /// Lets worker `name` finish what it has and gives it nothing new.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn drain(&self, name: &str) -> Result<WorkerStatus, AdminError> {
        self.post(&format!("/v1/workers/{name}/drain")).await
    }

    /// Takes back a drain that [`Self::drain`] asked for.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn undrain(&self, name: &str) -> Result<WorkerStatus, AdminError> {
        self.post(&format!("/v1/workers/{name}/undrain")).await
    }

    /// Orders instances of a function, and says how many live.
    ///
    /// # Errors
    /// [`AdminError`]; then nothing was ordered.
    pub async fn prewarm(&self, order: &OrderRequest) -> Result<PrewarmStatus, AdminError> {
        let path = "/v1/prewarm";
        self.send(path, self.request(Method::POST, path).json(order))
            .await
    }

    /// The functions with orders.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn prewarms(&self) -> Result<Vec<PrewarmStatus>, AdminError> {
        self.get("/v1/prewarm").await
    }

    /// Withdraws all orders of `function`, and says what they were.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn withdraw_prewarm(&self, function: &str) -> Result<PrewarmStatus, AdminError> {
        let path = format!("/v1/prewarm/{}", path_segment(function));
        self.send(&path, self.request(Method::DELETE, &path)).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        self.send(path, self.request(Method::GET, path)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        self.send(path, self.request(Method::POST, path)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // The host is only for the Host header: the connection goes to the Unix socket.
        self.http.request(method, format!("http://balancer{path}"))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        path: &str,
        request: RequestBuilder,
    ) -> Result<T, AdminError> {
        let response = request
            .send()
            .await
            .map_err(|source| AdminError::Unreachable {
                socket: self.socket.clone(),
                source,
            })?;
        let status = response.status();
        if !status.is_success() {
            let message = response
                .json::<ApiError>()
                .await
                .map_or_else(|_not_ours| String::new(), |body| body.error);
            return Err(AdminError::Refused {
                path: path.to_owned(),
                status,
                message,
            });
        }
        response.json().await.map_err(|source| AdminError::Answer {
            path: path.to_owned(),
            source,
        })
    }
}
