//! What goes into the pool and what comes out of it: one request, one outcome.

use std::sync::Arc;

use bytes::Bytes;
use ebpf_common::wire::Status;
use store::CatalogEntry;
use tokio::time::Instant;

/// One request for a handler.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The function, as the catalog has it.
    pub function: Arc<CatalogEntry>,
    /// The request's id, for the handler's context.
    pub request_id: u64,
    /// The session it belongs to. It decides the instance when the function's affinity is `session`.
    pub session: Option<u64>,
    /// The event: JSON, or bytes as they are, as the manifest says.
    pub payload: Bytes,
    /// Until when it waits for an instance; until when the handler may run, too, if it is the caller's.
    /// Otherwise the handler has its manifest's timeout from the moment it starts.
    pub deadline: Instant,
    /// Whether [`Self::deadline`] comes from the caller's time budget, not from the function's timeout.
    pub deadline_is_callers: bool,
}

/// How an [`Invocation`] ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happened, and with that whose fault it was.
    pub status: Status,
    /// The reply, or an error message in UTF-8.
    pub payload: Bytes,
    /// What it used.
    pub usage: Usage,
}

impl Outcome {
    /// An outcome without a reply: `message` says what went wrong.
    #[must_use]
    pub fn failed(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            payload: Bytes::from(message.into()),
            usage: Usage::default(),
        }
    }
}

/// What one invocation used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// From entering the pool to leaving it, waiting included.
    pub wall_us: u64,
    /// CPU time of the instance since its previous reply.
    pub cpu_us: u64,
    /// Whether an instance was started for it.
    pub cold: bool,
    /// The instance that served it; 0 if none did.
    pub instance: u64,
}

/// The pool at one moment, for metrics and `warmpath status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// Instances that wait for a request.
    pub idle: usize,
    /// Instances that serve one.
    pub busy: usize,
    /// Instances being started.
    pub starting: usize,
    /// Sandboxes ready for any function.
    pub prepared: usize,
    /// Requests that wait for an instance.
    pub waiting: usize,
    /// Functions with at least one instance.
    pub functions: usize,
    /// Sum of the memory limits of all instances.
    pub memory_mb: u64,
    /// Instances started since the pool was.
    pub cold_starts: u64,
    /// Instances ended because they were idle, or their memory was needed.
    pub evictions: u64,
    /// Instances ended after a timeout, a crash, a bad reply or for want of memory.
    pub destroyed: u64,
    /// Bytes that handlers printed.
    pub log_bytes: u64,
    /// Starts of a zygote beyond the first.
    pub zygote_restarts: u64,
}
