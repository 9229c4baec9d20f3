//! What the admin API is asked for and answers.

use serde::{Deserialize, Serialize};

use super::Stacks;

/// What is to be profiled, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileRequest {
    /// A name, which means all of its versions, or a qualified name.
    pub function: String,
    /// For how long.
    pub seconds: u32,
    /// Samples a second of each thread that runs a call.
    pub hz: u32,
}

impl ProfileRequest {
    /// The longest profile.
    pub const SECONDS_MAX: u32 = 300;
    /// The finest.
    pub const HZ_MAX: u32 = 1_000;

    /// Whether it is one that a worker takes.
    #[must_use]
    pub fn is_in_range(&self) -> bool {
        (1..=Self::SECONDS_MAX).contains(&self.seconds) && (1..=Self::HZ_MAX).contains(&self.hz)
    }
}

/// A worker's profile of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileReport {
    /// The worker.
    pub worker: String,
    /// The function, as it was asked for.
    pub function: String,
    /// How long it took.
    pub seconds: u32,
    /// Samples a second of each thread that runs a call.
    pub hz: u32,
    /// Requests that began meanwhile.
    pub requests: u64,
    /// Samples in all.
    pub samples: u64,
    /// Samples by stack: frames as `name (file:line)`, the outermost first, with `;` between them.
    pub stacks: Stacks,
}
