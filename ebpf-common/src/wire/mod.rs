//! The RPC over UDP: one 64-byte header (a cache line), big-endian, then the payload.
//!
//! ```text
//!  byte 0        2   3    4       6          8
//!      +--------+---+----+-------+----------+
//!    0 | magic  |ver|kind| flags |header_len|
//!    8 | request_id                         |
//!   16 | function_id                        |
//!   24 | session_id                         |
//!   32 | slot  | fragment_index | fragment_count | status |
//!   40 | budget_ms        | payload_len     |
//!   48 | route_cookie                       |
//!   56 | token                              |
//!      +------------------------------------+
//! ```
//! `docs/wire-format.md` draws it byte by byte and says what each side does with each field.

mod rpc;
mod status;
mod stream;

pub use rpc::{HeaderError, Kind, RpcHeader, flags, words_of};
pub use status::{Fault, Status};
pub use stream::{STREAM_PLACE_LEN, StreamPlace, Ticket};

/// First two bytes of every packet: `WP`.
pub const MAGIC: u16 = u16::from_be_bytes(*b"WP");
/// The only version there is.
pub const VERSION: u8 = 1;
/// Bytes of the header. Version 1 knows no other length.
pub const HEADER_LEN: usize = 64;
