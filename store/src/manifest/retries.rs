//! `[async]`: how a function's calls that nobody waits for are tried.

use serde::{Deserialize, Serialize};

use super::ManifestError;

/// What a function asks for; what it does not say is the worker's to say, which has limits too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    /// Attempts that may fail by the function's or the caller's fault before a call is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Wait after the first failure; each further one waits twice as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u32>,
    /// How long outcomes and dead letters are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u32>,
}

impl Retries {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), ManifestError> {
        for (key, given, min, max) in [
            ("async.attempts", self.attempts, 1, 1_000),
            ("async.backoff_ms", self.backoff_ms, 1, 3_600_000),
            ("async.keep_ms", self.keep_ms, 1_000, 30 * 86_400_000),
        ] {
            if let Some(given) = given.filter(|given| !(min..=max).contains(given)) {
                return Err(ManifestError::OutOfRange {
                    key,
                    given,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}
