//! The lambda-aware sharded database: 16,384 slots, each owned by one shard, each with a change feed.
//!
//! A key belongs to the slot that Redis Cluster would give it (CRC16, hash tags in braces). A worker
//! owns some slots with an [`Engine`] of its own; the [`Router`] serves an [`Op`] from there when it owns
//! the slot, and otherwise asks the owner's server. Each write and its change-feed record are one durable
//! commit: after an acknowledgement both are there, whatever crashes, and never one without the other.
//!
//! Features: `client` (types, codec and [`DbClient`]), `server` (engine, router, HTTP server, role).
//!
//! Invariants: an acknowledged write survives; feed cursors of a slot are 1, 2, 3, … without a gap;
//! after a failed sync an engine takes no more writes until it is opened again; a slot map never goes
//! backwards; a server refuses slots that it does not own.
//!
//! Deliberately absent: transactions over several keys (in this slice), replicas, moving slots, packets.

mod api;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
mod config;
#[cfg(feature = "server")]
pub mod engine;
mod error;
pub mod limits;
#[cfg(feature = "server")]
pub mod metrics;
mod op;
#[cfg(feature = "server")]
mod router;
#[cfg(feature = "server")]
pub mod server;
pub mod slots;

pub use api::{
    codec,
    types::{ErrorBody, FeedHead, Status},
};
#[cfg(feature = "client")]
pub use client::DbClient;
#[cfg(feature = "server")]
pub use config::{Config, ConfigError};
#[cfg(feature = "server")]
pub use engine::{
    Engine, Health,
    embedded::{Embedded, OpenError, Options},
};
pub use error::{DbError, Fault};
#[cfg(feature = "server")]
pub use metrics::Metrics;
pub use op::{Change, Cursor, FeedRecord, Locality, Op, OpKind, Reply, Row};
#[cfg(feature = "server")]
pub use router::{Local, Router};
#[cfg(feature = "server")]
pub use server::{RunError, run};
pub use slots::{RangeError, SlotMap, SlotOwner, SlotRange, SlotSet};
