//! The store's HTTP client: what worker, control plane and command line speak to a store with.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    api::types::{
        Catalog, Deleted, ErrorBody, FunctionDetail, FunctionSummary, Published, SetAlias,
        StoredLayer,
    },
    digest::Digest,
};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long any answer may take, transfers included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait that a long poll asks for; the server caps it as well.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// Largest bundle or layer that a client takes: a store that sends more is broken.
const BUNDLE_BYTES_MAX: usize = 1 << 30;

/// A client of one store. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct StoreClient {
    base: Url,
    http: reqwest::Client,
}

/// Why a request to the store failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL is none.
    #[error("`{url}` is no store URL: expected `http://host:port`")]
    BadUrl {
        /// The refused text.
        url: String,
    },
    /// The HTTP client could not be made.
    #[error("cannot set up the HTTP client for the store at {url}")]
    SetUp {
        /// The store.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No whole answer came.
    #[error("cannot {action} at the store {url}; is it running?")]
    Unreachable {
        /// What was attempted.
        action: String,
        /// The store.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The store answered with an error.
    #[error("cannot {action}: {}", body.error)]
    Refused {
        /// What was attempted.
        action: String,
        /// What the store said.
        body: ErrorBody,
    },
    /// The store's answer is not what its API promises.
    #[error(
        "cannot {action}: the answer of {url} (status {status}) is not that of a warmpath store"
    )]
    BadAnswer {
        /// What was attempted.
        action: String,
        /// The store.
        url: String,
        /// Its HTTP status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes that came are not what the digest names.
    #[error("the store {url} sent bytes of {got} for the {kind} {wanted}")]
    Corrupt {
        /// The store.
        url: String,
        /// A bundle or a layer.
        kind: &'static str,
        /// What was asked for.
        wanted: Digest,
        /// What came.
        got: Digest,
    },
}

impl ClientError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::BadUrl { .. } | Self::SetUp { .. } | Self::BadAnswer { .. } => false,
            Self::Unreachable { .. } | Self::Corrupt { .. } => true,
            Self::Refused { body, .. } => body.retryable,
        }
    }
}

#[derive(Deserialize)]
struct FunctionList {
    functions: Vec<FunctionSummary>,
}

impl StoreClient {
    /// A client of the store at `base_url`, such as `http://10.80.0.2:7100`. Does not connect yet.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`] or [`ClientError::SetUp`].
    pub fn new(base_url: &str) -> Result<Self, ClientError> {
        let base = Url::parse(base_url)
            .ok()
            .filter(|url| url.scheme() == "http" && url.has_host());
        let Some(base) = base else {
            return Err(ClientError::BadUrl {
                url: base_url.to_owned(),
            });
        };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|source| ClientError::SetUp {
                url: base_url.to_owned(),
                source,
            })?;
        Ok(Self { base, http })
    }

    /// Publishes a bundle as the next version of the function that its manifest names, or of `name`.
    ///
    /// # Errors
    /// [`ClientError`]; `Refused` carries the rule that the bundle broke.
    pub async fn publish(
        &self,
        name: Option<&str>,
        bundle: Bytes,
    ) -> Result<Published, ClientError> {
        let request = self
            .request(Method::POST, &["v1", "functions"])
            .header("content-type", "application/gzip")
            .body(bundle);
        let request = match name {
            Some(name) => request.query(&[("name", name)]),
            None => request,
        };
        self.json(request, "publish the bundle".to_owned()).await
    }

    /// All functions, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self) -> Result<Vec<FunctionSummary>, ClientError> {
        let request = self.request(Method::GET, &["v1", "functions"]);
        let list: FunctionList = self.json(request, "list functions".to_owned()).await?;
        Ok(list.functions)
    }

    /// Everything about one function.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn show(&self, name: &str) -> Result<FunctionDetail, ClientError> {
        let request = self.request(Method::GET, &["v1", "functions", name]);
        self.json(request, format!("show `{name}`")).await
    }

    /// Deletes a function with all its versions and aliases.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, name: &str) -> Result<Deleted, ClientError> {
        let request = self.request(Method::DELETE, &["v1", "functions", name]);
        self.json(request, format!("delete `{name}`")).await
    }

    /// Makes `name@alias` mean `name@version`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_alias(
        &self,
        name: &str,
        alias: &str,
        version: u32,
    ) -> Result<(), ClientError> {
        let request = self
            .request(Method::PUT, &["v1", "functions", name, "aliases", alias])
            .json(&SetAlias { version });
        let action = format!("point `{name}@{alias}` at version {version}");
        let _: FunctionDetail = self.json(request, action).await?;
        Ok(())
    }

    /// Removes an alias.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_alias(&self, name: &str, alias: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["v1", "functions", name, "aliases", alias]);
        let action = format!("remove the alias `{name}@{alias}`");
        let _: FunctionDetail = self.json(request, action).await?;
        Ok(())
    }

    /// The catalog as it is now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn catalog(&self) -> Result<Catalog, ClientError> {
        let request = self.request(Method::GET, &["v1", "catalog"]);
        self.json(request, "read the catalog".to_owned()).await
    }

    /// The catalog as soon as its revision differs from `revision`, or as it is when `timeout` (at most
    /// [`WAIT_MAX`]) has passed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wait_for_change(
        &self,
        revision: u64,
        timeout: Duration,
    ) -> Result<Catalog, ClientError> {
        let timeout = timeout.min(WAIT_MAX);
        let request = self
            .request(Method::GET, &["v1", "catalog"])
            .query(&[("after", revision)])
            .query(&[("timeout_ms", timeout.as_millis() as u64)]);
        self.json(request, "wait for a change of the catalog".to_owned())
            .await
    }

    /// The bundle that `digest` names, verified.
    ///
    /// # Errors
    /// [`ClientError`]; `Corrupt` when other bytes came.
    pub async fn bundle(&self, digest: &Digest) -> Result<Bytes, ClientError> {
        self.archive("bundle", "bundles", digest).await
    }

    /// The layer that `digest` names, verified.
    ///
    /// # Errors
    /// [`ClientError`]; `Corrupt` when other bytes came.
    pub async fn layer(&self, digest: &Digest) -> Result<Bytes, ClientError> {
        self.archive("layer", "layers", digest).await
    }

    /// Whether the store has the layer that `digest` names, whole.
    ///
    /// # Errors
    /// [`ClientError`] when that cannot be known.
    pub async fn has_layer(&self, digest: &Digest) -> Result<bool, ClientError> {
        let action = format!("look for the layer {digest}");
        let response = self
            .request(Method::HEAD, &["v1", "layers", digest.as_str()])
            .send()
            .await
            .map_err(|source| self.unreachable(&action, source))?;
        match response.status() {
            StatusCode::OK => Ok(true),
            // A corrupt one is mended by putting it again.
            StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR => Ok(false),
            status => Err(self.bad_answer(&action, status, "neither there nor absent")),
        }
    }

    /// Stores a layer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put_layer(&self, layer: Bytes) -> Result<StoredLayer, ClientError> {
        let request = self.request(Method::POST, &["v1", "layers"]).body(layer);
        self.json(request, "store a layer".to_owned()).await
    }

    async fn archive(
        &self,
        kind: &'static str,
        folder: &str,
        digest: &Digest,
    ) -> Result<Bytes, ClientError> {
        let action = format!("fetch the {kind} {digest}");
        let request = self.request(Method::GET, &["v1", folder, digest.as_str()]);
        let mut response = self.send(request, &action).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|source| self.unreachable(&action, source))?
        {
            if bytes.len() + chunk.len() > BUNDLE_BYTES_MAX {
                return Err(self.bad_answer(&action, response.status(), "it is too long"));
            }
            bytes.extend_from_slice(&chunk);
        }
        if digest.is_of(&bytes) {
            return Ok(bytes.into());
        }
        Err(ClientError::Corrupt {
            url: self.base.to_string(),
            kind,
            wanted: digest.clone(),
            got: Digest::of(&bytes),
        })
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        // Pushing segments escapes `/` and the like in names; a base with a host can take segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        self.http.request(method, url)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        action: String,
    ) -> Result<T, ClientError> {
        let response = self.send(request, &action).await?;
        let status = response.status();
        let body = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(&action, source))?;
        serde_json::from_slice(&body).map_err(|error| self.bad_answer(&action, status, error))
    }

    /// Sends, and turns every answer but success into an error.
    async fn send(&self, request: RequestBuilder, action: &str) -> Result<Response, ClientError> {
        let response = request
            .send()
            .await
            .map_err(|source| self.unreachable(action, source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response
            .bytes()
            .await
            .map_err(|source| self.unreachable(action, source))?;
        match serde_json::from_slice(&body) {
            Ok(body) => Err(ClientError::Refused {
                action: action.to_owned(),
                body,
            }),
            Err(error) => Err(self.bad_answer(action, status, error)),
        }
    }

    fn unreachable(&self, action: &str, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable {
            action: action.to_owned(),
            url: self.base.to_string(),
            source,
        }
    }

    fn bad_answer(&self, action: &str, status: StatusCode, reason: impl ToString) -> ClientError {
        ClientError::BadAnswer {
            action: action.to_owned(),
            url: self.base.to_string(),
            status: status.as_u16(),
            reason: reason.to_string(),
        }
    }
}
