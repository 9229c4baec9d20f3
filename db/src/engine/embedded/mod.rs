//! The embedded engine: fjall, one process, durable.
//!
//! Reads go straight to fjall from any thread. Writes queue for one writer thread, because fjall's batch
//! is write-only: a compare-and-set must read, decide and write with nobody in between. The writer
//! takes every write that waits, up to a bound, into one batch with one sync (group commit), so many
//! writers share the cost of a sync and a lone one never waits for company.
//!
//! Invariants: a write is acknowledged only after `fsync` of the journal that holds it and its feed
//! record; fjall shows a batch to readers only after that same sync; when a commit fails, the engine is
//! poisoned, for a page cache that failed to sync must not be trusted again (Rebello et al., ATC '20).

mod layout;
mod writer;

use std::{
    fs,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use ebpf_common::{hash::slot_of_key, ids::SlotId};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable};

use self::writer::{Request, Writer};
use super::{Done, Engine, Heads, Health};
use crate::{
    error::DbError,
    limits::REPLY_BYTES_MAX,
    metrics::Metrics,
    op::{Cursor, Op, Reply},
};

/// Writes that may wait for the writer.
const WAITING_MAX: usize = 4_096;
/// Bytes of the writes that may wait.
const WAITING_BYTES_MAX: u64 = 64 << 20;

/// How an embedded engine is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Writes are refused while the file system has less than this free, so that the engine can always
    /// finish what it has begun (flush, compact) and never meets a full disk in the middle of a commit.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reserve_bytes: 64 << 20,
        }
    }
}

/// Why an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder cannot be made.
    #[error("cannot make the database folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("the database at {} is open in another process: stop that one first", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Its files were written by another release.
    #[error("the database at {} has layout {found:?}, this release reads layout {}: use the release that wrote it", path.display(), layout::VERSION)]
    Layout {
        /// The folder.
        path: PathBuf,
        /// What its files say.
        found: Vec<u8>,
    },
    /// fjall cannot open it.
    #[error("cannot open the database at {}", path.display())]
    Engine {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: fjall::Error,
    },
    /// The writer thread cannot be started.
    #[error("cannot start the writer thread of the database at {}", path.display())]
    Thread {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What reader and writer share.
#[derive(Clone)]
struct Stored {
    database: Database,
    data: Keyspace,
    feed: Keyspace,
}

/// State that callers may ask for at any time.
#[derive(Debug, Default)]
struct Shared {
    poisoned: AtomicBool,
    waiting: AtomicU64,
    waiting_bytes: AtomicU64,
    commits: AtomicU64,
    syncs: AtomicU64,
    heads: Heads,
}

/// The embedded engine. Dropping it finishes the writes that wait and closes the files.
pub struct Embedded {
    stored: Stored,
    shared: Arc<Shared>,
    metrics: Metrics,
    /// `None` only while dropping.
    requests: Option<SyncSender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the engine at the folder `path`, which is made when absent.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, options: Options, metrics: &Metrics) -> Result<Self, OpenError> {
        fs::create_dir_all(path).map_err(|source| OpenError::Folder {
            path: path.to_owned(),
            source,
        })?;
        let stored = Stored::open(path)?;
        let shared = Arc::new(Shared::default());
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let writer = Writer::new(
            stored.clone(),
            Arc::clone(&shared),
            metrics.clone(),
            path.to_owned(),
            options.reserve_bytes,
        );
        let handle = std::thread::Builder::new()
            .name("db-writer".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(|source| OpenError::Thread {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            stored,
            shared,
            metrics: metrics.clone(),
            requests: Some(sender),
            writer: Some(handle),
        })
    }

    /// Queues a write, or says at once why it cannot be.
    fn enqueue(&self, op: Op, done: Done) {
        if self.shared.poisoned.load(Ordering::Acquire) {
            return done(Err(DbError::Poisoned));
        }
        let Some(requests) = &self.requests else {
            return done(Err(DbError::Stopping));
        };
        let request = Request::new(op, done);
        let bytes = request.bytes;
        let waiting_bytes = self.shared.waiting_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        self.shared.waiting.fetch_add(1, Ordering::AcqRel);
        self.metrics.waiting.inc();
        let refused = if waiting_bytes > WAITING_BYTES_MAX {
            Some((request, DbError::Busy))
        } else {
            match requests.try_send(request) {
                Ok(()) => None,
                Err(TrySendError::Full(request)) => Some((request, DbError::Busy)),
                Err(TrySendError::Disconnected(request)) => Some((request, DbError::Stopping)),
            }
        };
        if let Some((request, error)) = refused {
            self.shared.left_queue(bytes);
            self.metrics.waiting.dec();
            (request.done)(Err(error));
        }
    }
}

impl Shared {
    fn left_queue(&self, bytes: u64) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        self.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Without senders the writer ends when its queue is empty.
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the database's writer thread panicked");
        }
    }
}

impl Engine for Embedded {
    fn submit(&self, op: Op, done: Done) {
        if let Err(error) = op.check() {
            return done(Err(error));
        }
        match &op {
            Op::Put { .. } | Op::Delete { .. } | Op::CompareAndSet { .. } => self.enqueue(op, done),
            Op::Get { key } => done(self.stored.get(key)),
            Op::Scan {
                prefix,
                after,
                limit,
            } => done(self.stored.scan(prefix, after.as_deref(), *limit)),
            Op::Feed {
                slot,
                cursor,
                limit,
            } => done(self.stored.feed(*slot, *cursor, *limit)),
            Op::Head { slot } => done(self.stored.feed_head(*slot).map(|next| Reply::Feed {
                records: Vec::new(),
                next,
            })),
        }
    }

    fn feed_head(&self, slot: SlotId) -> Result<Cursor, DbError> {
        self.stored.feed_head(slot)
    }

    fn heads(&self) -> &Heads {
        &self.shared.heads
    }

    fn health(&self) -> Health {
        Health {
            poisoned: self.shared.poisoned.load(Ordering::Acquire),
            disk_bytes: self.stored.database.disk_space().unwrap_or(0),
            commits: self.shared.commits.load(Ordering::Acquire),
            syncs: self.shared.syncs.load(Ordering::Acquire),
            waiting: self.shared.waiting.load(Ordering::Acquire),
        }
    }
}

impl Stored {
    fn open(path: &Path) -> Result<Self, OpenError> {
        let engine = |source| match source {
            fjall::Error::Locked => OpenError::Locked {
                path: path.to_owned(),
            },
            source => OpenError::Engine {
                path: path.to_owned(),
                source,
            },
        };
        let database = Database::builder(path).open().map_err(engine)?;
        let keyspace = |name| {
            database
                .keyspace(name, KeyspaceCreateOptions::default)
                .map_err(engine)
        };
        let meta = keyspace("meta")?;
        match meta.get(layout::VERSION_KEY).map_err(engine)? {
            None => {
                let mut batch = database
                    .batch()
                    .durability(Some(fjall::PersistMode::SyncAll));
                batch.insert(&meta, layout::VERSION_KEY, [layout::VERSION]);
                batch.commit().map_err(engine)?;
            }
            Some(found) if *found == [layout::VERSION] => {}
            Some(found) => {
                return Err(OpenError::Layout {
                    path: path.to_owned(),
                    found: found.to_vec(),
                });
            }
        }
        Ok(Self {
            data: keyspace("data")?,
            feed: keyspace("feed")?,
            database,
        })
    }

    fn get(&self, key: &[u8]) -> Result<Reply, DbError> {
        self.value(&layout::data_key(slot_of_key(key), key))
            .map(|value| Reply::Value(value.map(|value| value.to_vec())))
    }

    fn value(&self, data_key: &[u8]) -> Result<Option<fjall::Slice>, DbError> {
        self.data.get(data_key).map_err(|error| unreadable(&error))
    }

    /// Reads one page from a snapshot: a group commit is then seen whole or not at all.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Result<Reply, DbError> {
        let slot = slot_of_key(prefix);
        let wanted = layout::data_key(slot, prefix);
        let lower = match after.map(|after| layout::data_key(slot, after)) {
            Some(after) if after >= wanted => Bound::Excluded(after),
            _ => Bound::Included(wanted.clone()),
        };
        let snapshot = self.database.snapshot();
        let mut rows = Vec::new();
        let mut bytes = 0;
        for row in snapshot.range::<Vec<u8>, _>(&self.data, (lower, Bound::Unbounded)) {
            let (key, value) = row.into_inner().map_err(|error| unreadable(&error))?;
            if !key.starts_with(&wanted) {
                break;
            }
            if rows.len() >= limit as usize || bytes >= REPLY_BYTES_MAX {
                return Ok(Reply::Rows { rows, more: true });
            }
            bytes += key.len() + value.len();
            rows.push((layout::key_of(&key).to_vec(), value.to_vec()));
        }
        Ok(Reply::Rows { rows, more: false })
    }

    /// Reads one page of a feed, from a snapshot: without one, a record committed behind the iterator's
    /// back could be passed over, and its successor returned.
    fn feed(&self, slot: SlotId, cursor: Cursor, limit: u32) -> Result<Reply, DbError> {
        let snapshot = self.database.snapshot();
        let mut records = Vec::new();
        let mut next = cursor;
        let mut bytes = 0;
        let range = (
            Bound::Excluded(layout::feed_key(slot, cursor)),
            Bound::Included(layout::feed_key(slot, Cursor(u64::MAX))),
        );
        if cursor == Cursor(u64::MAX) {
            return Ok(Reply::Feed { records, next });
        }
        for row in snapshot.range::<[u8; layout::FEED_KEY_LEN], _>(&self.feed, range) {
            if records.len() >= limit as usize || bytes >= REPLY_BYTES_MAX {
                break;
            }
            let (key, value) = row.into_inner().map_err(|error| unreadable(&error))?;
            let record = layout::decode_record(&key, &value)
                .filter(|record| record.cursor.0 == next.0 + 1)
                .ok_or_else(|| DbError::Read {
                    reason: format!("the feed of slot {slot} is broken behind cursor {next}"),
                })?;
            bytes += value.len();
            next = record.cursor;
            records.push(record);
        }
        Ok(Reply::Feed { records, next })
    }

    fn feed_head(&self, slot: SlotId) -> Result<Cursor, DbError> {
        let range =
            layout::feed_key(slot, Cursor::START)..=layout::feed_key(slot, Cursor(u64::MAX));
        match self.feed.range(range).next_back() {
            None => Ok(Cursor::START),
            Some(row) => {
                let key = row.key().map_err(|error| unreadable(&error))?;
                layout::cursor_of(&key).ok_or_else(|| DbError::Read {
                    reason: format!("the feed of slot {slot} holds a key of {} bytes", key.len()),
                })
            }
        }
    }
}

fn unreadable(error: &fjall::Error) -> DbError {
    DbError::Read {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
