//! The control plane: membership, catalog, slots and loads in; BPF map writes out.

pub mod api;
#[cfg(feature = "server")]
mod catalog;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
mod config;
#[cfg(feature = "server")]
mod controller;
#[cfg(feature = "server")]
mod loads;
#[cfg(feature = "server")]
mod mac;
#[cfg(feature = "server")]
pub mod maps;
pub mod membership;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod object;
#[cfg(feature = "server")]
mod policy;
#[cfg(feature = "server")]
mod ports;
#[cfg(feature = "server")]
mod rate_limit;
#[cfg(feature = "server")]
mod reconcile;
#[cfg(feature = "server")]
mod run;
#[cfg(feature = "server")]
mod slots;

#[cfg(feature = "server")]
pub use config::{Config, ConfigError};
#[cfg(feature = "server")]
pub use object::{ObjectError, object};
#[cfg(feature = "server")]
pub use run::{RunError, run};
