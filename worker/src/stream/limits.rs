//! `[stream]`: where streams are served, and how much of them.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;

/// Limits of streams.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamLimits {
    /// Whether replies and bodies may be streams at all.
    pub enabled: bool,
    /// Where they are served; by default the worker's `address`, at a free port.
    pub listen: Option<SocketAddr>,
    /// How long a client may take to come for its stream.
    pub claim_ms: u64,
    /// How long a handler may take to end after its caller has hung up.
    pub hangup_ms: u64,
    /// Bytes of one body.
    pub body_bytes_max: u64,
    /// Bytes of one reply.
    pub reply_bytes_max: u64,
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: None,
            claim_ms: 5_000,
            hangup_ms: 1_000,
            body_bytes_max: 1 << 30,
            reply_bytes_max: 1 << 30,
            connections: 1_024,
        }
    }
}

impl StreamLimits {
    /// What is wrong with the values, if anything.
    pub(crate) const fn check(&self) -> Result<(), &'static str> {
        if self.claim_ms == 0 || self.connections == 0 {
            return Err("`stream.claim_ms` and `stream.connections` must be at least 1");
        }
        let is_nowhere = match self.listen {
            Some(SocketAddr::V4(address)) => address.ip().is_unspecified(),
            Some(SocketAddr::V6(address)) => address.ip().is_unspecified(),
            None => false,
        };
        if is_nowhere {
            return Err(
                "`stream.listen` is told to clients: name the address that they can connect to",
            );
        }
        Ok(())
    }

    pub(crate) const fn claim(&self) -> Duration {
        Duration::from_millis(self.claim_ms)
    }

    pub(crate) const fn hangup(&self) -> Duration {
        Duration::from_millis(self.hangup_ms)
    }
}
