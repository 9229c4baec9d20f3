//! The HTTP API's bodies: the binary encoding of ops and replies, and JSON for people.

pub mod codec;
pub(crate) mod types;
