//! The writer thread: read, decide, write, sync, acknowledge, for many writes at once.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
    time::Instant,
};

use ebpf_common::ids::SlotId;
use fjall::{OwnedWriteBatch, PersistMode};
use tracing::error;

use super::{Done, Shared, Stored, layout};
use crate::{
    error::DbError,
    metrics::Metrics,
    op::{Cursor, Op, Reply},
};

/// Most writes in one durable batch.
const GROUP_OPS_MAX: usize = 512;
/// A batch takes no more writes once they come to this many bytes.
const GROUP_BYTES_MAX: u64 = 8 << 20;

/// A write that waits for its commit.
pub(super) struct Request {
    op: Op,
    /// What it counts against the queue's bound.
    pub(super) bytes: u64,
    pub(super) done: Done,
}

/// The writer's state. The heads are a cache of what the feed keyspace holds.
pub(super) struct Writer {
    stored: Stored,
    shared: Arc<Shared>,
    metrics: Metrics,
    path: PathBuf,
    reserve_bytes: u64,
    heads: HashMap<SlotId, Cursor>,
}

/// One group under way. Later writes of the group see the earlier ones through `values` and `heads`:
/// within one fjall batch a key may stand only once, for all its items have one sequence number.
struct Group {
    batch: OwnedWriteBatch,
    values: HashMap<Vec<u8>, Option<Vec<u8>>>,
    heads: HashMap<SlotId, Cursor>,
    written: u64,
}

impl Request {
    pub(super) fn new(op: Op, done: Done) -> Self {
        let bytes = match &op {
            Op::Put { key, value } => key.len() + value.len(),
            Op::CompareAndSet {
                key,
                expected,
                value,
            } => key.len() + value.len() + expected.as_ref().map_or(0, Vec::len),
            Op::Get { key } | Op::Delete { key } => key.len(),
            Op::Scan { prefix, .. } => prefix.len(),
            Op::Feed { .. } | Op::Head { .. } => 0,
        };
        Self {
            op,
            bytes: bytes as u64,
            done,
        }
    }
}

impl Writer {
    pub(super) fn new(
        stored: Stored,
        shared: Arc<Shared>,
        metrics: Metrics,
        path: PathBuf,
        reserve_bytes: u64,
    ) -> Self {
        Self {
            stored,
            shared,
            metrics,
            path,
            reserve_bytes,
            heads: HashMap::new(),
        }
    }

    /// Serves until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut bytes = first.bytes;
            let mut group = vec![first];
            while group.len() < GROUP_OPS_MAX && bytes < GROUP_BYTES_MAX {
                let Ok(request) = requests.try_recv() else {
                    break;
                };
                bytes += request.bytes;
                group.push(request);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, requests: Vec<Request>) {
        for request in &requests {
            self.shared.left_queue(request.bytes);
            self.metrics.waiting.dec();
        }
        if let Err(error) = self.check_writable() {
            for request in requests {
                (request.done)(Err(error.clone()));
            }
            return;
        }
        let mut group = Group {
            batch: self
                .stored
                .database
                .batch()
                .durability(Some(PersistMode::SyncAll)),
            values: HashMap::new(),
            heads: HashMap::new(),
            written: 0,
        };
        let outcomes: Vec<_> = requests
            .into_iter()
            .map(|request| (self.decide(request.op, &mut group), request.done))
            .collect();
        match self.sync(group) {
            Ok(()) => {
                for (outcome, done) in outcomes {
                    done(outcome);
                }
            }
            Err(error) => {
                for (outcome, done) in outcomes {
                    // What was refused on its own account stays refused; the rest is in doubt.
                    done(outcome.and_then(|_| Err(error.clone())));
                }
            }
        }
    }

    fn check_writable(&self) -> Result<(), DbError> {
        if self.shared.poisoned.load(Ordering::Acquire) {
            return Err(DbError::Poisoned);
        }
        // Unknown free space is no reason to refuse: a commit that fails says so itself.
        let Ok(space) = rustix::fs::statvfs(&self.path) else {
            return Ok(());
        };
        let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
        if free_bytes < self.reserve_bytes {
            return Err(DbError::DiskFull {
                free_bytes,
                reserve_bytes: self.reserve_bytes,
            });
        }
        Ok(())
    }

    /// Decides one write against what is stored and what the group has written already.
    fn decide(&self, op: Op, group: &mut Group) -> Result<Reply, DbError> {
        let slot = op.slot();
        let (key, value) = match op {
            Op::Put { key, value } => (key, Some(value)),
            Op::Delete { key } => (key, None),
            Op::CompareAndSet {
                key,
                expected,
                value,
            } => {
                let data_key = layout::data_key(slot, &key);
                let current = match group.values.get(&data_key) {
                    Some(current) => current.clone(),
                    None => self.stored.value(&data_key)?.map(|value| value.to_vec()),
                };
                if current != expected {
                    return Ok(Reply::Conflict { current });
                }
                (key, Some(value))
            }
            // Reads never get here: `submit` serves them.
            Op::Get { .. } | Op::Scan { .. } | Op::Feed { .. } | Op::Head { .. } => {
                return Err(DbError::Malformed {
                    reason: "a read was queued for the writer".to_owned(),
                });
            }
        };
        let head = match group.heads.get(&slot).or_else(|| self.heads.get(&slot)) {
            Some(head) => *head,
            None => self.stored.feed_head(slot)?,
        };
        let cursor = Cursor(head.0 + 1);
        group.batch.insert(
            &self.stored.feed,
            layout::feed_key(slot, cursor),
            layout::encode_record(&key, value.as_deref()),
        );
        group.heads.insert(slot, cursor);
        group.values.insert(layout::data_key(slot, &key), value);
        group.written += 1;
        Ok(Reply::Written { cursor })
    }

    /// Makes the group durable, or poisons the engine.
    fn sync(&mut self, mut group: Group) -> Result<(), DbError> {
        if group.written == 0 {
            return Ok(());
        }
        for (data_key, value) in group.values {
            match value {
                Some(value) => group.batch.insert(&self.stored.data, data_key, value),
                None => group.batch.remove(&self.stored.data, data_key),
            }
        }
        let started = Instant::now();
        if let Err(cause) = group.batch.commit() {
            self.shared.poisoned.store(true, Ordering::Release);
            self.metrics.poisoned.set(1);
            error!(path = %self.path.display(), error = %cause, "commit failed: no more writes until restart");
            return Err(match cause {
                // fjall's own background work failed earlier: this batch was not begun.
                fjall::Error::Poisoned => DbError::Poisoned,
                cause => DbError::CommitFailed {
                    reason: cause.to_string(),
                },
            });
        }
        self.metrics.synced(group.written, started.elapsed());
        self.shared
            .commits
            .fetch_add(group.written, Ordering::AcqRel);
        self.shared.syncs.fetch_add(1, Ordering::AcqRel);
        self.shared.heads.moved(&group.heads);
        for (slot, cursor) in group.heads {
            let head_max = self.metrics.feed_head_max.get().max(cursor.0 as i64);
            self.metrics.feed_head_max.set(head_max);
            self.heads.insert(slot, cursor);
        }
        Ok(())
    }
}
