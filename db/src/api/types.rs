//! JSON bodies of the HTTP API.

use serde::{Deserialize, Serialize};

use crate::{error::DbError, op::Cursor, slots::SlotSet};

/// Body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence for people.
    pub error: String,
    /// The HTTP status code again.
    pub status: u16,
    /// Who has to act: `caller` or `platform`.
    pub fault: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// The error itself: its `kind` and fields, among which `owned` of `moved`.
    #[serde(flatten)]
    pub detail: DbError,
}

impl From<DbError> for ErrorBody {
    fn from(detail: DbError) -> Self {
        Self {
            error: detail.to_string(),
            status: detail.http_status(),
            fault: detail.fault().name().to_owned(),
            retryable: detail.is_retryable(),
            detail,
        }
    }
}

/// Body of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The slots that this server owns.
    pub slots: SlotSet,
    /// Whether it takes writes.
    pub writable: bool,
    /// Bytes of the engine's files.
    pub disk_bytes: u64,
    /// Feed records committed since the process started.
    pub commits: u64,
    /// Syncs since the process started; several commits can share one.
    pub syncs: u64,
}

/// Body of `GET /v1/feeds/{slot}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedHead {
    /// The slot.
    pub slot: u16,
    /// The cursor of its newest record.
    pub head: Cursor,
}
