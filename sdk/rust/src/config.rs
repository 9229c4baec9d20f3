//! What a client can be told; the defaults suit a data centre.

use std::{net::SocketAddr, time::Duration};

/// Settings of a [`crate::Client`].
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Local address; by default any, with a port chosen by the kernel.
    pub bind: Option<SocketAddr>,
    /// Requests in flight at once; one more is refused with [`crate::CallError::TooManyInFlight`].
    pub max_in_flight: usize,
    /// Sessions whose route cookies are remembered; the least recently used half is forgotten first.
    pub max_sessions: usize,
    /// Wait before the first retransmission while no round trip has been measured.
    pub initial_retransmit: Duration,
    /// Least wait before a retransmission. A worker acknowledges what takes it longer than about
    /// 12 ms, so that less than this would only repeat what has arrived.
    pub min_retransmit: Duration,
    /// Most wait between two retransmissions of one request.
    pub max_retransmit: Duration,
    /// Bytes asked of the kernel for each of the socket's two buffers (it may give less).
    pub socket_buffer_bytes: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            bind: None,
            max_in_flight: 65_536,
            max_sessions: 65_536,
            initial_retransmit: Duration::from_millis(20),
            min_retransmit: Duration::from_millis(15),
            max_retransmit: Duration::from_millis(200),
            socket_buffer_bytes: 4 << 20,
        }
    }
}
