//! The HTTP API: its bodies, and (feature `server`) its routes.

pub mod types;
