//! What tests run the pipeline on: a frame of plain bytes, tables of standard maps, and frames built by
//! `etherparse`, which knows nothing of this crate. For the tests here and in package `tests` only.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what a test expects may fail loudly"
)]

pub mod caller;
pub mod extension;
pub mod frame;
mod host_packet;
mod police;
pub mod rows;
#[expect(
    clippy::indexing_slicing,
    reason = "tables of a test: an index beyond them is a bug of the test"
)]
mod tables;
mod trace;
pub mod tunnel;

pub use host_packet::{HEAD_ROOM, HostPacket};
pub use police::PoliceTables;
pub use tables::{FUNCTION_ROWS, FakeTables, PLACE_ROWS};
pub use trace::FakeTrace;
