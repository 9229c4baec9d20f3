//! Ops over HTTP to another shard's server, on kept-alive connections.

use std::time::Duration;

use ebpf_common::ids::SlotId;
use reqwest::{Response, Url};
use serde::de::DeserializeOwned;

use crate::{
    api::{
        codec,
        types::{ErrorBody, FeedHead, Status},
    },
    error::DbError,
    limits::ENCODED_REPLY_BYTES_MAX,
    op::{Cursor, Op, Reply},
};

/// How long to wait for a connection: a shard is one hop away.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long an op may take.
const OP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one long poll for a feed's move lasts. Short enough to notice soon that the slot has another owner.
const POLL: Duration = Duration::from_secs(20);
/// Idle connections kept to one shard.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Content type of an encoded op or reply.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.warmpath.db";

/// A client of one db server. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct DbClient {
    url: String,
    op_url: Url,
    http: reqwest::Client,
}

impl DbClient {
    /// A client of the server at `url`, such as `http://10.80.0.11:7200`. Does not connect yet.
    ///
    /// # Errors
    /// [`DbError::Unreachable`] when the URL is none.
    pub fn new(url: &str) -> Result<Self, DbError> {
        let refused = |reason: String| DbError::Unreachable {
            url: url.to_owned(),
            reason,
            sent: false,
        };
        let op_url = Url::parse(url)
            .and_then(|base| base.join("/v1/op"))
            .map_err(|error| refused(error.to_string()))?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(OP_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            url: url.to_owned(),
            op_url,
            http,
        })
    }

    /// The server's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Executes `op` there. A failed write is never sent twice: whether to do so is the caller's to say.
    ///
    /// # Errors
    /// What the server said, or [`DbError::Unreachable`] or [`DbError::BadAnswer`].
    pub async fn execute(&self, op: &Op) -> Result<Reply, DbError> {
        op.check()?;
        let request = self
            .http
            .post(self.op_url.clone())
            .header("content-type", CONTENT_TYPE)
            .body(codec::encode_op(op));
        let body = self.body(self.success(request).await?).await?;
        codec::decode_reply(&body).map_err(|error| self.bad_answer(error))
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// As [`DbClient::execute`].
    pub async fn status(&self) -> Result<Status, DbError> {
        self.get("/v1/status").await
    }

    /// The newest cursor of a slot's feed.
    ///
    /// # Errors
    /// As [`DbClient::execute`].
    pub async fn feed_head(&self, slot: u16) -> Result<FeedHead, DbError> {
        self.get(&format!("/v1/feeds/{slot}")).await
    }

    /// Waits a while for the feed of `slot` to move beyond `after`; where it is then.
    ///
    /// # Errors
    /// As [`DbClient::execute`].
    pub async fn feed_moved(&self, slot: SlotId, after: Cursor) -> Result<Cursor, DbError> {
        let path = format!(
            "/v1/feeds/{slot}?after={after}&wait_ms={}",
            POLL.as_millis()
        );
        let url = self
            .op_url
            .join(&path)
            .map_err(|error| self.bad_answer(error))?;
        let request = self.http.get(url).timeout(POLL + OP_TIMEOUT);
        let body = self.body(self.success(request).await?).await?;
        serde_json::from_slice(&body)
            .map(|head: FeedHead| head.head)
            .map_err(|error| self.bad_answer(error))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, DbError> {
        let url = self
            .op_url
            .join(path)
            .map_err(|error| self.bad_answer(error))?;
        let body = self.body(self.success(self.http.get(url)).await?).await?;
        serde_json::from_slice(&body).map_err(|error| self.bad_answer(error))
    }

    /// Sends, and turns every answer but success into an error.
    async fn success(&self, request: reqwest::RequestBuilder) -> Result<Response, DbError> {
        let response = request.send().await.map_err(|error| self.failed(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await?;
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(body.detail),
            Err(_) => Err(self.bad_answer(format_args!("status {status}"))),
        }
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, DbError> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.failed(&error))?
        {
            if body.len() + chunk.len() > ENCODED_REPLY_BYTES_MAX {
                return Err(self.bad_answer("it is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failed(&self, error: &reqwest::Error) -> DbError {
        let reason = if error.is_timeout() {
            "time ran out".to_owned()
        } else {
            innermost(error).to_string()
        };
        DbError::Unreachable {
            url: self.url.clone(),
            reason,
            // Without a connection nothing was sent; after that, who knows.
            sent: !error.is_connect(),
        }
    }

    fn bad_answer(&self, reason: impl ToString) -> DbError {
        DbError::BadAnswer {
            url: self.url.clone(),
            reason: reason.to_string(),
        }
    }
}

/// The cause at the end of the chain: reqwest's own texts say little ("error sending request").
fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}
