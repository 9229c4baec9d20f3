//! The engine behind a shard: where its slots' data and feeds are kept.
//!
//! The trait is small on purpose: another engine (a Redis Cluster node on this host) fits behind it.

pub mod embedded;
mod heads;

use std::{fmt, sync::mpsc};

use ebpf_common::ids::SlotId;
pub use heads::Heads;

use crate::{
    error::DbError,
    op::{Cursor, Op, Reply},
};

/// Called once with the outcome of an op, on a thread of the engine's choosing: it must not block.
pub type Done = Box<dyn FnOnce(Result<Reply, DbError>) + Send>;

/// Data and change feeds of the slots of one shard.
///
/// Contract: `Reply::Written` means that the write *and* its feed record are durable together; feed
/// cursors of a slot are 1, 2, 3, … in commit order; reads see every acknowledged write and no
/// write that could still vanish. An engine does not ask who owns a slot: router and server do.
pub trait Engine: fmt::Debug + Send + Sync {
    /// Starts `op` and calls `done` with its outcome. Does not wait for the disk when `op` is a write; may
    /// read from it otherwise.
    fn submit(&self, op: Op, done: Done);

    /// Executes `op` and waits. Must not be called on an async runtime's thread: writes wait for a sync.
    ///
    /// # Errors
    /// [`DbError`].
    fn execute(&self, op: &Op) -> Result<Reply, DbError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(
            op.clone(),
            Box::new(move |outcome| {
                // The receiver waits below until this very send.
                drop(sender.send(outcome));
            }),
        );
        receiver.recv().unwrap_or(Err(DbError::Stopping))
    }

    /// The cursor of the newest feed record of `slot`; [`Cursor::START`] when it has none.
    ///
    /// # Errors
    /// [`DbError::Read`].
    fn feed_head(&self, slot: SlotId) -> Result<Cursor, DbError>;

    /// The feeds that are followed here: the engine tells each commit there, once it is durable.
    fn heads(&self) -> &Heads;

    /// Its state, for status and metrics.
    fn health(&self) -> Health;
}

/// The state of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// A commit failed; no more writes until it is opened again.
    pub poisoned: bool,
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Feed records committed since it was opened.
    pub commits: u64,
    /// Syncs since it was opened: several commits can share one.
    pub syncs: u64,
    /// Writes waiting for their commit.
    pub waiting: u64,
}
