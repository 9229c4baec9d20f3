//! The control plane: who is alive, what can be called, who holds which slots and who is how busy go
//! in; BPF map writes come out. It can be killed and started again without the data plane noticing.
//!
//! ```text
//! membership/server ─┐                                    ┌─▶ maps/apply ─▶ kernel
//! catalog (store) ───┼─▶ controller ─▶ policy ─▶ reconcile ┤
//! ports ─────────────┘   (one task)     (pure)    (pure)   └─▶ membership/server: assignments
//! api (admin) ◀──▶ controller · maps/read · maps/explain
//! ```
//! Features: `client` (the worker's end of membership and [`client::AdminClient`]), `server` (everything).
//!
//! Invariants: aya is used in [`maps`] only; [`policy`] and [`reconcile`] have no clock, no socket and no
//! kernel; no prefix of the writes of a plan leaves a packet without a route; maps of another
//! `LAYOUT_VERSION` are refused by name; generic XDP is never taken silently; stopping changes nothing
//! that packets meet.
//!
//! Deliberately absent: parsing packets (`xdp-balancer`), running code, storing bundles or data.

pub mod api;
#[cfg(feature = "server")]
pub mod bench;
#[cfg(feature = "server")]
pub mod catalog;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
mod clock;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
mod controller;
#[cfg(feature = "server")]
pub mod decap;
#[cfg(feature = "server")]
pub mod doctor;
#[cfg(feature = "server")]
pub mod history;
#[cfg(feature = "server")]
pub mod id_map;
#[cfg(feature = "server")]
pub mod key_secret;
#[cfg(feature = "server")]
pub mod loads;
#[cfg(feature = "server")]
pub mod mac;
#[cfg(feature = "server")]
pub mod maps;
pub mod membership;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod object;
#[cfg(feature = "server")]
pub mod policy;
#[cfg(feature = "server")]
pub mod ports;
#[cfg(feature = "server")]
mod rate_limit;
#[cfg(feature = "server")]
pub mod reconcile;
#[cfg(feature = "server")]
mod run;
#[cfg(feature = "server")]
pub mod schemas;
#[cfg(feature = "server")]
pub mod slots;
#[cfg(feature = "server")]
pub mod trace;

#[cfg(feature = "server")]
pub use config::{Config, ConfigError};
#[cfg(feature = "server")]
pub use object::{ObjectError, object};
#[cfg(feature = "server")]
pub use run::{RunError, run};
