//! The HTTP API: its bodies, and (feature `server`) its routes and refusals.

#[cfg(feature = "server")]
mod refusal;
#[cfg(feature = "server")]
pub(crate) mod routes;
pub mod types;
