//! What goes into the pool and what comes out of it: one request, one outcome.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ebpf_common::wire::Status;
use serde::{Deserialize, Serialize};
use store::CatalogEntry;
use tokio::time::Instant;
use warmpath_sdk::http::{RequestHead, ResponseHead};

use crate::{
    bill::{Caller, Usage},
    park::{Wait, Wake},
    stream::Streaming,
};

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
    /// The head of the HTTP request, if the handler speaks HTTP.
    pub http: Option<Box<RequestHead>>,
    /// When it came.
    pub arrived: Instant,
    /// When the caller stops waiting, if he said so.
    pub caller_deadline: Option<Instant>,
    /// What woke it, if its handler had it parked before.
    pub wake: Option<Wake>,
    /// Who is billed.
    pub caller: Caller,
    /// What of it may be a stream.
    pub streams: Streams,
}

/// What of a request's exchange is a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Streams {
    /// Nothing: the reply is put together.
    #[default]
    None,
    /// The reply, if the handler wants it.
    Reply,
    /// The body, which follows, and the reply if the handler wants it.
    Both,
}

/// Until when something may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// That moment.
    pub at: Instant,
    /// Whether it is the end of the caller's budget, not of the function's own time.
    pub is_callers: bool,
}

impl Invocation {
    /// Until when it waits for an instance: as long as the handler might run, but not longer than the caller waits.
    #[must_use]
    pub fn wait_deadline(&self) -> Deadline {
        self.deadline_from(self.arrived)
    }

    /// Until when the handler may run that starts at `start`: time spent in a queue is the caller's, not the handler's.
    #[must_use]
    pub fn deadline_from(&self, start: Instant) -> Deadline {
        let timeout_ms = self.function.manifest.timeout_ms;
        let own = start + Duration::from_millis(timeout_ms.into());
        match self.caller_deadline {
            Some(at) if at < own => Deadline {
                at,
                is_callers: true,
            },
            _ => Deadline {
                at: own,
                is_callers: false,
            },
        }
    }
}

/// How an [`Invocation`] ended.
#[derive(Debug)]
pub struct Outcome {
    /// What happened, and with that whose fault it was.
    pub status: Status,
    /// The reply, or an error message in UTF-8.
    pub payload: Bytes,
    /// What a handler that speaks HTTP said before its reply; of an exception, that it would have.
    pub http: Option<ResponseHead>,
    /// What it used.
    pub usage: Usage,
    /// With [`Status::Continue`]: the handler waits for this, and is to run again then.
    pub wait: Option<Box<Wait>>,
    /// With [`Status::Continue`]: it goes on as a stream, once its caller comes for that.
    pub stream: Option<Box<dyn Streaming>>,
}

impl Outcome {
    /// An outcome without a reply: `message` says what went wrong.
    #[must_use]
    pub fn failed(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            payload: Bytes::from(message.into()),
            http: None,
            usage: Usage::default(),
            wait: None,
            stream: None,
        }
    }

    /// The reply of a handler.
    #[must_use]
    pub const fn replied(payload: Bytes, usage: Usage) -> Self {
        Self {
            status: Status::Ok,
            payload,
            http: None,
            usage,
            wait: None,
            stream: None,
        }
    }

    /// No outcome yet: the handler waits.
    #[must_use]
    pub fn waits(wait: Wait, usage: Usage) -> Self {
        Self {
            status: Status::Continue,
            payload: Bytes::new(),
            http: None,
            usage,
            wait: Some(Box::new(wait)),
            stream: None,
        }
    }

    /// No outcome yet: the rest is a stream.
    #[must_use]
    pub fn streams(stream: Box<dyn Streaming>) -> Self {
        Self {
            stream: Some(stream),
            ..Self::failed(Status::Continue, "")
        }
    }
}

/// Where the instance of a request came from, the quickest way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// It was running.
    Warm,
    /// It was paused.
    Paused,
    /// It was made of a prepared sandbox, forked from a zygote.
    Zygote,
    /// Even its sandbox was made for the request.
    Cold,
}

impl Path {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Warm, Self::Paused, Self::Zygote, Self::Cold];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Paused => "paused",
            Self::Zygote => "zygote",
            Self::Cold => "cold",
        }
    }
}

/// The pool at one moment, for metrics and `warmpath worker pool`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSnapshot {
    /// Instances that wait for a request and run.
    pub idle: usize,
    /// Instances that wait for a request and are paused.
    pub paused: usize,
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
    /// Of these, the ones that an operator asked for.
    pub prewarmed: u64,
    /// Functions whose code and layers were made ready without an instance, because the control plane wanted them.
    pub code_ahead: u64,
    /// Requests by where their instance came from, in the order of [`Path::ALL`].
    pub paths: [u64; Path::ALL.len()],
    /// Instances ended because they were idle, or their memory was needed.
    pub evictions: u64,
    /// Of these, the ones whose memory was needed.
    pub evicted_for_memory: u64,
    /// Instances ended after a timeout, a crash, a bad reply or for want of memory.
    pub destroyed: u64,
    /// Bytes that handlers printed.
    pub log_bytes: u64,
    /// Instances that were not started for want of a secret.
    pub secret_failures: u64,
    /// Samples in the profiles that were taken.
    pub profile_samples: u64,
    /// Starts of a zygote beyond the first.
    pub zygote_restarts: u64,
    /// CPU time of ended instances that no request was charged.
    pub unbilled_cpu_ns: u64,
    /// Sandboxes that have a network.
    pub networks: usize,
    /// The version of Landlock that instances are behind, 0 for none.
    pub landlock: u32,
    /// Zygotes with packages that run.
    pub zygotes: usize,
    /// What they take.
    pub zygote_memory_mb: u64,
    /// Zygotes with packages that were grown.
    pub zygotes_grown: u64,
    /// Those of them that were ended again.
    pub zygotes_ended: u64,
    /// Sets of packages that cannot be a zygote.
    pub zygotes_unfit: u64,
    /// Instances forked from a zygote with packages.
    pub zygote_forks: u64,
    /// Instances that package zygotes have forked ahead of need.
    pub zygote_ready: usize,
}

#[cfg(test)]
mod tests {
    use ebpf_common::ids::FunctionId;
    use store::{Digest, Manifest};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn invocation(budget: Option<Duration>) -> Invocation {
        let manifest = "name = 'f'\ntimeout_ms = 2000";
        let function = CatalogEntry {
            id: FunctionId::of("f"),
            name: "f".to_owned(),
            qualified: "f@latest".to_owned(),
            version: 1,
            digest: Digest::of(b"f"),
            manifest: toml::from_str::<Manifest>(manifest).unwrap(),
        };
        let arrived = Instant::now();
        Invocation {
            function: Arc::new(function),
            request_id: 1,
            session: None,
            payload: Bytes::new(),
            http: None,
            arrived,
            caller_deadline: budget.map(|budget| arrived + budget),
            wake: None,
            caller: Caller::Unknown,
            streams: Streams::None,
        }
    }

    /// Milliseconds from its arrival, and whether they are the caller's.
    fn after(invocation: &Invocation, deadline: Deadline) -> (u128, bool) {
        let time = deadline.at - invocation.arrived;
        (time.as_millis(), deadline.is_callers)
    }

    #[test]
    fn without_a_budget_the_handler_has_its_own_time_whenever_it_starts() {
        let invocation = invocation(None);
        assert_eq!(
            after(&invocation, invocation.wait_deadline()),
            (2_000, false)
        );
        let late = invocation.deadline_from(invocation.arrived + 1_900 * MS);
        assert_eq!(after(&invocation, late), (3_900, false));
    }

    #[test]
    fn the_earlier_of_both_ends_counts_also_after_a_wait() {
        let short = invocation(Some(500 * MS));
        assert_eq!(after(&short, short.wait_deadline()), (500, true));
        // More than the handler's own time, and still less than a wait and that.
        let long = invocation(Some(2_500 * MS));
        assert_eq!(after(&long, long.wait_deadline()), (2_000, false));
        let early = long.deadline_from(long.arrived + 100 * MS);
        assert_eq!(after(&long, early), (2_100, false));
        let late = long.deadline_from(long.arrived + 1_900 * MS);
        assert_eq!(after(&long, late), (2_500, true));
    }
}
