//! The loaded program, frame by frame: what the program tests and the benchmark of the XDP program stand on.
//!
//! - [`object`](mod@object): where the eBPF object under test is
//! - [`program`]: the object loaded, given tables, and run on single frames by BPF_PROG_TEST_RUN
//!
//! A package of its own, apart from the platform's tests, because it needs nothing of the platform: it builds
//! in seconds, and runs in a virtual machine with another kernel.

pub mod object;
mod police;
pub mod program;

pub use object::object;
