//! The worker's admin API: HTTP/JSON on the Unix socket `<state_dir>/worker.sock`, for whoever may open it.
//!
//! `routes` turns requests into questions to the pool, `socket` has nobody else in, [`client`] is what the command line
//! speaks. The bodies are the types of the modules they come from.

pub mod client;
mod routes;
mod socket;

pub use self::socket::SocketError;
pub(crate) use self::{routes::router, socket::bind};

/// The socket's name in the state directory.
pub const SOCKET: &str = "worker.sock";
