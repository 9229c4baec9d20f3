//! The control plane: membership, catalog, slots and loads in; BPF map writes out.

pub mod api;
#[cfg(feature = "client")]
pub mod client;
pub mod membership;
#[cfg(feature = "server")]
mod object;

#[cfg(feature = "server")]
pub use object::{ObjectError, object};
