//! Hosts as network namespaces, and what runs in them: what the privileged tests, the benchmarks of the data plane and
//! the demo stand on.
//!
//! # Layout
//! - [`run`]: everything one run leaves on the machine, recorded so that it can be removed, also by a later run
//! - [`netns`], [`topology`]: hosts as network namespaces, joined by veth pairs and bridges
//! - [`process`]: child processes that cannot outlive us
//! - [`machine`]: what there is on the machine, to compare before and after
//! - [`wait`]: conditions with deadlines
//! - [`pass`]: the XDP program that a veth peer needs before native XDP_TX works
//!
//! Invariants: whatever is made here is recorded in a [`run::Run`] *before* it is made; nothing waits by
//! sleeping for a guessed time; no sysctl of the machine's own namespace is touched.

pub mod machine;
pub mod netns;
pub mod pass;
pub mod process;
pub mod run;
pub mod topology;
pub mod wait;
