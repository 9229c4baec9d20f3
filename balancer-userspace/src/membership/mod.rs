//! Who is alive: sources in, one versioned [`state::Membership`] out.
//!
//! [`protocol`] is what workers and the control plane say to each other, [`client`] the worker's end
//! of it and `server` ours; [`state`] is the result, and `persist` what of it outlives a restart.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod persist;
pub mod protocol;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod state;
