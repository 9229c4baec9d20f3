//! The load generator: a process of its own in the client's namespace, told what to do by a [`Plan`] and
//! answering with a [`Summary`], as JSON lines on its standard output.
//!
//! It counts what it sent and what came back; it does not know what should have come back. Times are in
//! microseconds since the Unix epoch, so that two processes can compare them.

mod child;
mod generate;
mod series;

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

pub use child::LoadProcess;
pub use generate::main;
pub use series::{Histogram, Series};

/// What to send.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Plan {
    /// One request after the other, round by round to each target in turn: their latencies can be compared.
    Latency {
        /// The function.
        function: String,
        /// Where to: each target is a series.
        targets: Vec<SocketAddr>,
        /// How often each series gets its turn.
        rounds: u32,
        /// Requests in each turn.
        requests: u32,
    },
    /// As many requests as `in_flight` allows, as fast as they are answered.
    Closed {
        /// The function.
        function: String,
        /// Where to.
        target: SocketAddr,
        /// How many in all.
        requests: u64,
        /// How many at a time.
        in_flight: usize,
    },
    /// A steady stream, whatever becomes of the requests.
    Paced {
        /// The function.
        function: String,
        /// Where to.
        target: SocketAddr,
        /// Requests a second.
        per_second: u32,
        /// How many in all.
        requests: u64,
    },
    /// Every session sends one request a round.
    Sessions {
        /// A function that replies with `worker`, `instance` and `count`.
        function: String,
        /// Where to.
        target: SocketAddr,
        /// How many sessions.
        sessions: u64,
        /// How many requests each.
        rounds: u32,
        /// How many sessions at a time.
        in_flight: usize,
        /// Whether every second round has a fresh client, which knows no route cookie.
        fresh: bool,
    },
    /// Every shard key is written, and then read by another request.
    Keys {
        /// A function that adds `add` to the counter `key` and replies with its `value` and the `worker`.
        function: String,
        /// Where to.
        target: SocketAddr,
        /// How many keys.
        keys: u64,
        /// How many at a time.
        in_flight: usize,
    },
}

/// What came of a plan.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    /// One for each series of targets; one alone for other plans.
    pub series: Vec<Series>,
    /// Each request, for [`Plan::Paced`].
    pub samples: Vec<Sample>,
    /// For [`Plan::Sessions`].
    pub sessions: Option<SessionsResult>,
    /// For [`Plan::Keys`].
    pub keys: Vec<KeyResult>,
}

/// One request of a steady stream.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sample {
    /// When it was sent.
    pub at_us: u64,
    /// How long it took.
    pub took_us: u64,
    /// Who answered.
    pub worker: Option<u16>,
    /// Whether it was answered with success.
    pub ok: bool,
    /// Whether it had to be sent again.
    pub retried: bool,
}

/// What the sessions met.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct SessionsResult {
    /// Sessions that sent at least one request.
    pub sessions: u64,
    /// Requests answered.
    pub requests: u64,
    /// Of them: met the worker and the instance that the session's first request met.
    pub sticky: u64,
    /// Of them: the instance's own memory held exactly the session's earlier requests.
    pub counted: u64,
}

/// What became of one shard key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyResult {
    /// The key.
    pub key: String,
    /// Name of the worker that ran the writing handler; none if it failed.
    pub written_by: Option<String>,
    /// Name of the worker that ran the reading handler; none if it failed.
    pub read_by: Option<String>,
    /// Whether what was read is what was written.
    pub read_back: bool,
}

/// One line of output.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// So many requests have ended.
    Done(u64),
    /// All have.
    Summary(Box<Summary>),
    /// It could not be done.
    Failed(String),
}

impl Plan {
    /// How many requests it will send.
    #[must_use]
    pub fn requests(&self) -> u64 {
        match self {
            Self::Latency {
                targets,
                rounds,
                requests,
                ..
            } => u64::from(*rounds) * u64::from(*requests) * targets.len() as u64,
            Self::Closed { requests, .. } | Self::Paced { requests, .. } => *requests,
            Self::Sessions {
                sessions, rounds, ..
            } => sessions * u64::from(*rounds),
            Self::Keys { keys, .. } => keys * 2,
        }
    }
}

impl Summary {
    /// Requests sent, all series together.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.series.iter().map(|series| series.sent).sum()
    }

    /// Requests answered with success, all series together.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.series.iter().map(|series| series.answered).sum()
    }

    /// How requests failed, by what their errors say, all series together.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (words, count) in self.series.iter().flat_map(|series| &series.failures) {
            *all.entry(words.clone()).or_default() += count;
        }
        all
    }
}
