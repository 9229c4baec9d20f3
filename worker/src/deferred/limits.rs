//! `[async]`: calls that nobody waits for.

use std::time::Duration;

use serde::Deserialize;

/// How such calls are made, and for how long what became of them is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeferredLimits {
    /// Calls made at a time, of each shelf.
    pub at_once: usize,
    /// Attempts that the function may fail before a call is given up.
    pub attempts: u32,
    /// Wait after the first failure; each further one waits twice as long.
    pub backoff_ms: u64,
    /// Most wait between two attempts.
    pub backoff_ms_max: u64,
    /// How long outcomes and calls that were given up are kept.
    pub keep_ms: u64,
}

impl Default for DeferredLimits {
    fn default() -> Self {
        Self {
            at_once: 16,
            attempts: 3,
            backoff_ms: 1_000,
            backoff_ms_max: 300_000,
            keep_ms: 86_400_000,
        }
    }
}

impl DeferredLimits {
    /// What is wrong with the values, if anything.
    pub(crate) const fn check(&self) -> Result<(), &'static str> {
        if self.at_once == 0 || self.attempts == 0 || self.backoff_ms == 0 {
            return Err("`async.at_once`, `attempts` and `backoff_ms` must be at least 1");
        }
        Ok(())
    }

    pub(crate) const fn backoff(&self) -> Duration {
        Duration::from_millis(self.backoff_ms)
    }

    pub(crate) const fn backoff_max(&self) -> Duration {
        Duration::from_millis(self.backoff_ms_max)
    }
}
