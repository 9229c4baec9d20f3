//! Triggers as they are asked about: where what is known of one is kept, and what is said of it. The question is
//! [`crate::deferred::Ask::Trigger`].

use ebpf_common::{hash::slot_of_key, ids::SlotId};
use serde::{Deserialize, Serialize};

use crate::{
    deferred::{self, CallId, SHELVES},
    http::{Head, HeadError},
};

/// What pulls a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TriggerKind {
    /// The time.
    Schedule,
    /// Writes to the database.
    Feed,
}

impl TriggerKind {
    /// Both, in a fixed order.
    pub const ALL: [Self; 2] = [Self::Schedule, Self::Feed];

    /// Its name in metrics and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Feed => "feed",
        }
    }
}

/// The shelf that the calls of a trigger stand on: of a schedule all of them, of a feed those that were given up.
#[must_use]
pub fn shelf(function: &str, trigger: &str) -> u8 {
    // A slot is a good enough hash, and both are below 2^14.
    let slot = slot_of_key(format!("{function}/{trigger}").as_bytes()).0;
    u8::try_from(slot % u16::from(SHELVES)).unwrap_or_default()
}

/// The slot whose owner pulls a schedule: that of its [`shelf`]. A feed's is the slot it follows.
#[must_use]
pub fn schedule_slot(function: &str, trigger: &str) -> SlotId {
    deferred::slot(shelf(function, trigger))
}

/// What is known of a trigger by the worker that pulls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerReport {
    /// The function's name.
    pub function: String,
    /// The trigger's name.
    pub trigger: String,
    /// What pulls it.
    pub kind: TriggerKind,
    /// The version that has it and is called.
    pub version: u32,
    /// How often it was pulled: calls kept of a schedule, calls that succeeded of a feed.
    pub fired: u64,
    /// When the last of these was due or ended, in milliseconds since 1970.
    pub last_ms: Option<u64>,
    /// The id of the last call.
    pub last_call: Option<CallId>,
    /// When it is due next, of a schedule; of a feed, when a call that failed is made again.
    pub next_ms: Option<u64>,
    /// Times of a schedule that passed while nobody pulled.
    pub missed: u64,
    /// Of a feed: the last record that was dealt with.
    pub cursor: Option<u64>,
    /// Of a feed: records of the slot that are still to be looked at.
    pub lag: u64,
    /// Of a feed: attempts that failed, all told.
    pub failures: u64,
    /// Of a feed: calls that were given up.
    pub dead: u64,
    /// What went wrong last, if it has not gone well since.
    pub error: Option<String>,
}

/// The answer to [`deferred::Ask::Trigger`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TriggerAnswer {
    /// Absent when the worker that was asked does not pull such a one.
    pub report: Option<TriggerReport>,
}

impl Head for TriggerAnswer {
    fn check(&self) -> Result<(), HeadError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_spread_over_the_shelves_and_each_has_one() {
        let shelves: std::collections::BTreeSet<u8> = (0..1_000)
            .map(|number| shelf(&format!("f{number}"), "tick"))
            .collect();
        assert!(shelves.iter().all(|shelf| *shelf < SHELVES));
        assert!(shelves.len() > 50, "{} of 64", shelves.len());
        assert_eq!(shelf("f", "t"), shelf("f", "t"));
        assert_eq!(schedule_slot("f", "t"), deferred::slot(shelf("f", "t")));
    }
}
