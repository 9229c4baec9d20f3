//! Whole platforms as processes: what a user sees of them, and what they leave behind.
//!
//! Each test has the machine to itself: a platform takes both cores, and the tests of what is left behind
//! compare the whole machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answer;
mod balancers;
mod bed;
mod callers;
mod cancel;
mod deferred;
mod kill;
mod leftovers;
mod openlambda;
mod packages;
mod parted;
mod refusals;
mod serve;
mod streams;
mod triggers;
