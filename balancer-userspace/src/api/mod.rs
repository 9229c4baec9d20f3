//! The admin API: HTTP/JSON on a Unix socket, and `/metrics` on TCP.
//!
//! [`types`] are the bodies, shared with the client; `routes` turns requests into questions to the
//! controller, or reads the pinned maps itself.

#[cfg(feature = "server")]
mod prewarm;
#[cfg(feature = "server")]
pub(crate) mod routes;
pub mod types;
