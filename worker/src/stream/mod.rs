//! Streams: replies and bodies that go on over TCP, in one HTTP/1.1 exchange each.
//!
//! ```text
//!  rpc: a handler opens a stream ─▶ desk gives a ticket out ─▶ RESPONSE with STREAM ─▶ client
//!  server: POST /stream/<ticket> ─▶ desk takes it back ─▶ Claim ─▶ whoever runs the handler
//!                 answer ◀── pieces ◀── Port ◀── instance      body ──▶ Port ──▶ instance
//! ```
//! # Layout
//! - `desk` knows which tickets are out and which streams are open; `server` takes connections; `answer` is what they are
//!   told; `port` is the end of whoever runs the handler; `limits` bounds it all.
//!
//! # Invariants
//! - A ticket is good once. A forged, used or expired one is refused and counted.
//! - Of a stream so much is held as [`WINDOW`] pieces, one on the way to its connection and what the kernel holds: who
//!   reads slowly slows down the handler, who writes slowly waits for nobody else.
//! - A stream that does not end well ends its connection in the middle of the body: it never looks whole.

mod answer;
mod desk;
mod limits;
mod metrics;
mod port;
mod server;

pub use answer::BadHead;
pub(crate) use desk::Offered;
pub use desk::{Desk, OpenStream, Refused, StreamsReport};
pub use limits::StreamLimits;
pub use metrics::StreamMetrics;
pub use port::{Claim, End, NoBody, Port, Streaming};
pub(crate) use port::{Lost, Piece};
pub use server::listen;

/// Longest piece of a stream: of a chunk from an instance, and of a body to it.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;
/// Pieces that an instance may have sent and nobody taken yet.
pub const WINDOW: u32 = 4;
