//! Hosts as network namespaces, and what runs in them: what the privileged tests, the benchmarks of the data plane and
//! the demo stand on.
//!
//! # Layout
//! - [`run`]: everything one run leaves on the machine, recorded so that it can be removed, also by a later run
//! - [`netns`], [`topology`]: hosts as network namespaces, joined by veth pairs and bridges
//! - [`process`]: child processes that cannot outlive us
//! - [`proc`]: processes and control groups as the machine shows them
//! - [`machine`]: what there is on the machine, to compare before and after
//! - [`wait`]: conditions with deadlines
//! - [`svg`]: the frame of a drawing
//! - [`pass`]: the XDP program that a veth peer needs before native XDP_TX works
//!
//! Invariants: whatever is made here is recorded in a [`run::Run`] *before* it is made; nothing waits by
//! sleeping for a guessed time; no sysctl of the machine's own namespace is touched.

pub mod machine;
pub mod netns;
pub mod pass;
pub mod proc;
pub mod process;
pub mod run;
pub mod svg;
pub mod topology;
pub mod wait;
