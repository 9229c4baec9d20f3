//! The client of Warmpath's RPC over UDP: calls functions at a VIP.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use warmpath_sdk::{Call, Client, ClientConfig};
//!
//! let client = Client::connect("10.99.0.1:9000".parse()?, ClientConfig::default())?;
//! let response = client.call(Call::new("hello").payload("{\"name\":\"Ada\"}")).await?;
//! println!("{}", String::from_utf8_lossy(&response.payload));
//! # Ok(()) }
//! ```
//!
//! One [`Client`] is one UDP socket with any number of requests in flight; it is cheap to clone.
//!
//! # Layout
//! - [`Client`] owns the socket, its receive task and the table of requests in flight.
//! - `exchange` is the life of one request as a state machine without I/O: packets and timers in,
//!   packets out. Everything the wire rules say about a client is decided there.
//! - [`http`] puts HTTP requests and responses into messages; gateway and worker use it.
//! - [`stream`] is the exchange over TCP that a reply or a body goes on in which no message has room for.
//! - [`fragment`] cuts messages into packets and puts them together again; the worker uses it too.
//!
//! # Invariants
//! - A call ends by its deadline, whatever the network does.
//! - Nothing a peer sends makes the client panic, or hold more than one message per request in flight.
//! - A request that is not idempotent is never sent to a second worker once a first has acknowledged it.
//!
//! Deliberately absent: routing. The balancer decides; the client only echoes route cookies.

mod call;
mod client;
mod config;
mod cookies;
pub mod deferred;
mod error;
mod exchange;
mod flights;
pub mod fragment;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod http;
mod link;
mod rtt;
mod session;
mod stats;
pub mod stream;
pub mod trigger;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use call::{Call, Response};
pub use client::Client;
pub use config::ClientConfig;
pub use ebpf_common::{
    ids::{FunctionId, SlotId, WorkerId},
    limits::MAX_MESSAGE,
    wire::{Fault, Status},
};
pub use error::{CallError, ConnectError};
pub use session::session_id;
pub use stats::ClientStats;

/// Locks `mutex`. What our locks guard is whole between any two statements, so that a panic of
/// another holder does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
