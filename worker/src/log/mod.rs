//! What functions print: kept by request, bounded, never mixed.
//!
//! [`Output`] takes it from the pipes of one instance and says which request ran; [`Logs`] keeps the last of it for
//! each function, for whoever asks on the admin socket.
//!
//! Invariants: an instance never blocks on what it prints; an [`Entry`] holds whole lines of one stream of one
//! request; a request, a function and the worker keep no more than their bounds, and say how much was cut.

mod entry;
mod hidden;
mod output;
mod ring;

pub use self::{
    entry::{Entry, LogPage, Stream},
    hidden::Hidden,
    output::{Output, Source},
    ring::{Logs, Wanted},
};
