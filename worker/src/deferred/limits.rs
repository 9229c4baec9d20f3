//! `[async]`: calls that nobody waits for.

use std::time::Duration;

use serde::Deserialize;
use store::manifest::Retries as Asked;

/// How such calls are made, and for how long what became of them is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeferredLimits {
    /// Calls made at a time, of each shelf.
    pub at_once: usize,
    /// Attempts that the function may fail before a call is given up, if its manifest does not say.
    pub attempts: u32,
    /// The most that a manifest gets.
    pub attempts_max: u32,
    /// Wait after the first failure, if the manifest does not say; each further one waits twice as long.
    pub backoff_ms: u64,
    /// Most wait between two attempts, whoever says.
    pub backoff_ms_max: u64,
    /// How long outcomes and calls that were given up are kept, if the manifest does not say.
    pub keep_ms: u64,
    /// The most that a manifest gets.
    pub keep_ms_max: u64,
}

/// How the calls of one function are tried, and for how long what became of them is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retries {
    pub(crate) attempts: u32,
    pub(crate) backoff: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) keep_ms: u64,
}

impl Default for DeferredLimits {
    fn default() -> Self {
        Self {
            at_once: 16,
            attempts: 3,
            attempts_max: 100,
            backoff_ms: 1_000,
            backoff_ms_max: 300_000,
            keep_ms: 86_400_000,
            keep_ms_max: 30 * 86_400_000,
        }
    }
}

impl DeferredLimits {
    /// What is wrong with the values, if anything.
    pub(crate) const fn check(&self) -> Result<(), &'static str> {
        if self.at_once == 0 || self.attempts == 0 || self.backoff_ms == 0 {
            return Err("`async.at_once`, `attempts` and `backoff_ms` must be at least 1");
        }
        if self.attempts > self.attempts_max || self.keep_ms > self.keep_ms_max {
            return Err(
                "`async.attempts` and `keep_ms` must be within `attempts_max` and `keep_ms_max`",
            );
        }
        Ok(())
    }

    /// What a manifest asks for, within these.
    pub(crate) fn of(&self, asked: &Asked) -> Retries {
        let backoff_ms = asked.backoff_ms.map_or(self.backoff_ms, u64::from);
        Retries {
            attempts: asked
                .attempts
                .unwrap_or(self.attempts)
                .min(self.attempts_max),
            backoff: Duration::from_millis(backoff_ms.min(self.backoff_ms_max)),
            backoff_max: Duration::from_millis(self.backoff_ms_max),
            keep_ms: asked
                .keep_ms
                .map_or(self.keep_ms, u64::from)
                .min(self.keep_ms_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_gets_what_it_asks_for_within_the_workers_limits() {
        let limits = DeferredLimits::default();
        assert!(limits.check().is_ok());
        let own = limits.of(&Asked::default());
        assert_eq!(
            (own.attempts, own.backoff, own.keep_ms),
            (3, Duration::from_secs(1), 86_400_000)
        );
        let asked = limits.of(&Asked {
            attempts: Some(7),
            backoff_ms: Some(250),
            keep_ms: Some(5_000),
        });
        assert_eq!(
            (asked.attempts, asked.backoff, asked.keep_ms),
            (7, Duration::from_millis(250), 5_000)
        );
        let greedy = limits.of(&Asked {
            attempts: Some(1_000),
            backoff_ms: Some(3_600_000),
            keep_ms: Some(u32::MAX),
        });
        assert_eq!(
            (greedy.attempts, greedy.backoff),
            (100, limits.of(&Asked::default()).backoff_max)
        );
        assert_eq!(greedy.keep_ms, limits.keep_ms_max);
        let upside_down = DeferredLimits {
            attempts_max: 2,
            ..limits
        };
        assert!(upside_down.check().is_err());
    }
}
