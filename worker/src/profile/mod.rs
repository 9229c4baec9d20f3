//! Profiles of live functions: the stacks that a runtime samples in its own process, added up by the worker.
//!
//! # Layout
//! - [`Stacks`] is samples by stack; pure, and what the admin API and the command line speak.
//! - [`Slot`] is where a function's profile stands while it is taken, [`Session`] the taking of it, [`Tap`] one request's
//!   share in it: what the runtime sent for that request goes through there.
//! - [`ProfileRequest`] and [`ProfileReport`] are the admin API's question and answer.
//!
//! # Invariants
//! - While nobody profiles a function, its requests pay for one look into its slot.
//! - What a runtime sends is the handler's word: it can spoil its own function's profile and nothing else. Frames are
//!   bounded in length and in number by time, stacks in depth, number and bytes.

mod report;
mod slot;
mod stacks;

pub use self::{
    report::{ProfileReport, ProfileRequest},
    slot::{Recording, Session, Slot, Tap},
    stacks::{OTHER, Stacks},
};

/// Longest data of a profile frame.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
