//! What a function requires, made into package layers: at deploy time, on the deployer's machine.
//!
//! ```text
//! requirements.txt ─▶ lock (versions, SHA-256) ─▶ wheels ─▶ a folder each, compiled ─▶ a layer each ─▶ store
//!                     └────────── pip, in a cell ────────┘
//! ```
//!
//! The deployer does this, not the store and not the worker: the store keeps no state and runs nothing, and takes
//! a layer as it takes a bundle, as an upload that nobody trusts; a worker's cold start waits for no index.
//!
//! Invariants: what speaks to the index, and what opens its files, runs in a cell (`cell`): namespaces of its
//! own, nothing of the host but what it needs, read-only, and one way out, a proxy that lets it reach the
//! index's hosts and no others (`proxy`). No code of a package runs: wheels only, never a build. What was
//! locked once is what is deployed, or nothing.

pub mod archive;
pub mod cell;
mod error;
mod lock;
mod npm;
mod pip;
mod proxy;
mod requirements;

pub use self::{
    error::{Fault, ResolveError},
    lock::{Lock, Locked},
    requirements::{Made, Options, Requires, resolve},
};
