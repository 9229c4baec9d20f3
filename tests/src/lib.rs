//! The test bed of the whole platform, for the privileged tests and the demo.
//!
//! # Layout
//! - [`cluster`]: a whole platform as processes in a test bed
//! - [`load`]: the load generator, a process in the client's namespace
//! - [`topology`] and the others: the `testbed` package's hosts, processes and what they leave on the machine

pub mod cluster;
pub mod load;

pub use testbed::{machine, netns, pass, process, run, topology, wait};
