//! `[rpc]`: what the RPC server may hold, and for how long.

use std::time::Duration;

use ebpf_common::limits::MAX_MESSAGE;
use serde::Deserialize;

/// Parts that the table of requests is split into; each has an equal share of the bytes.
pub(crate) const SHARDS: usize = 16;

/// Limits of the RPC server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RpcLimits {
    /// Bytes of replies kept for repeated requests, book-keeping included.
    pub reply_cache_bytes: usize,
    /// How long a reply is kept. Longer than any client goes on asking for it.
    pub reply_cache_ms: u64,
    /// Bytes of requests of which fragments are missing.
    pub reassembly_bytes: usize,
    /// How long the fragments of one request may take to arrive.
    pub reassembly_ms: u64,
    /// A request that takes longer than this is acknowledged, so that its client stops repeating it.
    pub acknowledge_after_ms: u64,
    /// How long past its deadline a handler's outcome is waited for before the request is given up. The
    /// pool enforces deadlines; this is for the case that it does not.
    pub grace_ms: u64,
    /// Bytes asked of the kernel for each socket's two buffers (it may give less).
    pub socket_buffer_bytes: usize,
}

impl Default for RpcLimits {
    fn default() -> Self {
        Self {
            reply_cache_bytes: 128 << 20,
            reply_cache_ms: 10_000,
            reassembly_bytes: 32 << 20,
            reassembly_ms: 5_000,
            acknowledge_after_ms: 12,
            grace_ms: 5_000,
            socket_buffer_bytes: 8 << 20,
        }
    }
}

impl RpcLimits {
    /// What is wrong with the values, if anything.
    pub(crate) const fn check(&self) -> Result<(), &'static str> {
        // A shard must have room for two messages, or a long one would push itself out.
        let least = SHARDS * 2 * MAX_MESSAGE;
        if self.reply_cache_bytes < least || self.reassembly_bytes < least {
            return Err(
                "`rpc.reply_cache_bytes` and `rpc.reassembly_bytes` must be at least 2097152",
            );
        }
        if self.reply_cache_ms == 0 || self.reassembly_ms == 0 || self.acknowledge_after_ms == 0 {
            return Err("`rpc.…_ms` must be at least 1");
        }
        Ok(())
    }

    pub(crate) const fn reply_cache(&self) -> Duration {
        Duration::from_millis(self.reply_cache_ms)
    }

    pub(crate) const fn reassembly(&self) -> Duration {
        Duration::from_millis(self.reassembly_ms)
    }

    pub(crate) const fn acknowledge_after(&self) -> Duration {
        Duration::from_millis(self.acknowledge_after_ms)
    }

    pub(crate) const fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}
