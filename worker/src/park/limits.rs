//! `[park]`: how many requests may wait without an instance, and for how long.

use std::time::Duration;

use serde::Deserialize;

/// Limits of parking.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParkLimits {
    /// Requests parked at a time.
    pub requests: usize,
    /// Bytes of their events and states together.
    pub bytes: usize,
    /// Longest time that a handler may ask for at once, for callers without a budget too.
    pub until_ms_max: u64,
}

impl Default for ParkLimits {
    fn default() -> Self {
        Self {
            requests: 131_072,
            bytes: 128 << 20,
            until_ms_max: 86_400_000,
        }
    }
}

impl ParkLimits {
    /// What is wrong with the values, if anything.
    pub(crate) const fn check(&self) -> Result<(), &'static str> {
        if self.until_ms_max == 0 {
            return Err("`park.until_ms_max` must be at least 1");
        }
        Ok(())
    }

    /// How long to wait that was asked for `asked_ms`.
    pub(crate) fn until(&self, asked_ms: Option<u64>) -> Duration {
        let most = self.until_ms_max;
        Duration::from_millis(asked_ms.map_or(most, |asked| asked.min(most)))
    }
}
