//! The admin API: HTTP/JSON on a Unix socket.

pub mod types;
