//! The data plane: what becomes of one packet. parse → police → route → forward → observe.
//!
//! The same code runs in the kernel (`main.rs`, behind feature `program`) and on the host, where tests
//! run it over plain bytes and maps made of `BTreeMap`s. It sees the packet through [`Packet`] and the
//! BPF maps through [`Tables`]; both are implemented by the shell.
//!
//! Invariants: no panic and no allocation on any input; each packet is counted once as seen and once
//! under exactly one outcome; nothing that is addressed to a VIP but malformed is passed on; an answer is
//! never longer than what it answers, and only a request or a ping is ever answered by a packet of ours.
//!
//! Deliberately absent: checks of the IPv4, UDP and TCP checksums (the worker's kernel makes them: a packet that is
//! damaged on its way to us is not made whole here).
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
// For `opaque`; the build sets RUSTC_BOOTSTRAP.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![warn(clippy::indexing_slicing, clippy::panic)]

mod balance;
pub mod decap;
mod fib;
pub mod forward;
mod observe;
mod opaque;
pub mod parse;
pub mod police;
pub mod route;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
mod verdict;

pub use balance::balance;
pub use decap::decapsulate;
pub use fib::{Ends, FibParams, FibQuery, NextHop};
pub use parse::{CutError, Packet};
pub use tables::{Row, Tables};
pub use trace::{Recorder, trace};
pub use verdict::{
    Answer, DropReason, NotOurs, Outcome, RETRY_AFTER_MAX_MS, RETRY_AFTER_MS, Refusal, Rule, Stop,
    Verdict,
};

#[cfg(test)]
mod tests;
