//! The test bed of the whole platform, for the privileged tests and the demo.
//!
//! # Layout
//! - [`cluster`]: a whole platform as processes in a test bed
//! - [`pool`]: the pool of a worker in this process, with a store and a database
//! - [`load`]: the load generator, a process in the client's namespace
//! - [`index`]: a package index that a test serves
//! - [`topology`] and the others: the `testbed` package's hosts, processes and what they leave on the machine

pub mod cluster;
pub mod index;
pub mod load;
pub mod pool;

pub use testbed::{machine, netns, pass, proc, process, run, svg, topology, wait};
