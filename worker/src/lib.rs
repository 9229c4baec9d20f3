//! The worker: runs functions in sandboxes, and speaks the RPC on the VIP.
//!
//! # Layout
//! - [`rpc`] takes packets in and sends replies; it hands whole requests to an [`invoke::Invoker`].
//! - [`deferred`] keeps and makes the calls that nobody waits for.
//! - [`trigger`] calls functions by the time and by what is written to the database.
//! - [`park`] keeps the requests whose handlers wait for something.
//! - [`pool`], [`runtime`], [`sandbox`] and [`code`] are that invoker: where a request meets a sandbox.
//! - [`rootfs`] builds what sandboxes have for a system, ahead of any request.
//! - [`bill`] counts what each request used, [`profile`] where a function spends its time, [`log`] keeps what functions
//!   print; [`api`] tells it to whoever asks on the admin socket.
//! - `ahead` has code here before anyone calls, where the control plane wants it.
//! - [`catalog`] follows the store, [`identity`] the control plane; [`load`] says how busy we are, and [`report`] tells
//!   the balancer.
//! - [`cpu_latency`] keeps idle processors easy to wake while requests come.
//! - [`decap`] takes the encapsulation off what the balancer sends, in the kernel.
//!
//! # Invariants
//! - `rpc` knows nothing of sandboxes, the pool nothing of packets.
//! - A worker whose control plane or store is away goes on with what it knew last.
//!
//! Deliberately absent: routing. What reaches this worker, it serves.

mod agreement;
mod ahead;
pub mod api;
pub mod bill;
pub mod catalog;
pub mod code;
mod config;
pub mod cpu_latency;
mod decap;
pub mod deferred;
mod error;
pub mod identity;
pub mod invoke;
pub mod load;
pub mod log;
mod membership;
pub mod metrics;
pub mod park;
pub mod pool;
pub mod profile;
pub mod report;
pub mod rootfs;
pub mod rpc;
pub mod runtime;
pub mod sandbox;
pub mod secrets;
mod service;
pub mod stream;
pub mod trigger;

pub use config::{Config, DbConfig};
pub use error::{ConfigError, RunError};
pub use service::run;
