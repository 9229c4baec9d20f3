//! What a handler asks for that returns `wait(…)`, and what it is told when it runs again.

use db::Cursor;
use ebpf_common::ids::SlotId;
use serde::Serialize;

/// "Run me again when this feed moves, or at this time."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The feed, and the cursor that it must get beyond.
    pub feed: Option<(SlotId, Cursor)>,
    /// Milliseconds; absent, as long as the caller waits.
    pub until_ms: Option<u64>,
    /// What the handler wants to find again.
    pub state: Option<Box<str>>,
}

/// What woke a parked request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WakeReason {
    /// The feed moved.
    Feed,
    /// The time was up.
    Time,
}

impl WakeReason {
    /// Its name in metrics and in the handler's context.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Time => "time",
        }
    }
}

/// Told to the handler that runs again: meta of an invoke frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wake {
    /// Why.
    pub reason: WakeReason,
    /// Where the feed is, as far as is known: to wait behind the next time.
    pub cursor: Cursor,
    /// What the handler left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Box<str>>,
}
