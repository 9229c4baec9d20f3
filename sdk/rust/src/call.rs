//! What is asked for, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use ebpf_common::{
    hash::slot_of_key,
    ids::{FunctionId, SlotId, WorkerId},
};

use crate::http::{self, HeadError, RequestHead};

/// How long a call may take when nothing else is said.
const DEFAULT_BUDGET: Duration = Duration::from_secs(5);

/// One call of one function.
#[derive(Debug, Clone)]
pub struct Call {
    /// The function: by name with [`Call::new`].
    pub function: FunctionId,
    /// The request, at most [`crate::MAX_MESSAGE`] bytes.
    pub payload: Bytes,
    /// Calls with the same session meet the same instance of the function; see [`crate::session_id`].
    pub session: Option<u64>,
    /// Calls with a slot run where the slot's data is; see [`Call::shard_key`].
    pub slot: Option<SlotId>,
    /// How long the caller is prepared to wait, all attempts taken together.
    pub budget: Duration,
    /// Whether the handler may run more than once for this call. If so, it is tried again even when
    /// a worker has vanished with it.
    pub idempotent: bool,
    /// Whether the payload ends with the head of an HTTP request, see [`crate::http`].
    pub http: bool,
    /// Carried in the header of every packet, for whoever reads traces; 0 is none.
    pub trace_id: u64,
}

impl Call {
    /// A call of `function` (`hello`, `hello@3`, `hello@stable`) with an empty payload, no session, no
    /// shard key, a budget of five seconds, not idempotent.
    #[must_use]
    pub fn new(function: &str) -> Self {
        Self::by_id(FunctionId::of(function))
    }

    /// As [`Call::new`], for callers that have hashed the function's name already.
    #[must_use]
    pub const fn by_id(function: FunctionId) -> Self {
        Self {
            function,
            payload: Bytes::new(),
            session: None,
            slot: None,
            budget: DEFAULT_BUDGET,
            idempotent: false,
            http: false,
            trace_id: 0,
        }
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Makes it the HTTP request of `head` and `body`.
    ///
    /// # Errors
    /// When the head breaks a rule of HTTP.
    pub fn http(mut self, head: &RequestHead, body: &[u8]) -> Result<Self, HeadError> {
        self.payload = http::join(head, body)?;
        self.http = true;
        Ok(self)
    }

    /// Sets the session.
    #[must_use]
    pub const fn session(mut self, session: u64) -> Self {
        self.session = Some(session);
        self
    }

    /// Sets the slot to that of `key` (CRC16 with hash tags, as in Redis Cluster).
    #[must_use]
    pub fn shard_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.slot = Some(slot_of_key(key.as_ref()));
        self
    }

    /// Sets the budget.
    #[must_use]
    pub const fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// Says whether the handler may run more than once.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }
}

/// The reply of a handler that succeeded, and what it took to get it.
#[derive(Debug, Clone)]
pub struct Response {
    /// What the handler returned.
    pub payload: Bytes,
    /// Whether that ends with the head of an HTTP response, see [`crate::http`].
    pub http: bool,
    /// The route cookie of the worker that answered, if it gave one.
    pub cookie: Option<u64>,
    /// How often the request was begun: 1, and one more for each retryable error and each lost worker.
    pub attempts: u32,
    /// Packets sent again because no answer came in time.
    pub retransmits: u32,
    /// From the first packet sent to the last one received.
    pub elapsed: Duration,
}

impl Response {
    /// The worker that answered, as its route cookie names it. The client cannot verify it: good for
    /// reports, not for decisions.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        self.cookie.map(|cookie| WorkerId((cookie >> 48) as u16))
    }
}
