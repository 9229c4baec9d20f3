//! The table of requests: those arriving in fragments, those running, and the replies of those done.
//!
//! It is what makes a handler run at most once for a request id: from the first fragment until its
//! reply is forgotten, a request has exactly one entry, and whoever finds it knows what to answer.
//! Entries are keyed by source address *and* request id, so that no client can ask for another's reply.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ebpf_common::wire::RpcHeader;
use tokio::task::AbortHandle;
use warmpath_sdk::fragment::{Added, FragmentError, Held, Reassembly};

use super::{
    answer::Reply,
    limits::{RpcLimits, SHARDS},
};
use crate::park::Ticket;

/// What an entry costs beside its payload: key, enum, hash table and queue, rounded up.
const ENTRY_BYTES: usize = 256;

/// Who asked, and under which id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestKey {
    pub(crate) peer: SocketAddr,
    pub(crate) id: u64,
}

/// What is known of a request.
#[derive(Debug)]
enum Entry {
    Receiving(Box<Receiving>),
    /// Its handler runs, or is about to; of how many fragments it was, and what its client is told if it goes on as a
    /// stream.
    Running {
        count: u16,
        cookie: u64,
        run: Run,
        opened: Option<Arc<Reply>>,
    },
    Done {
        reply: Arc<Reply>,
        at: Instant,
    },
}

impl Entry {
    const fn starting(count: u16, cookie: u64) -> Self {
        Self::Running {
            count,
            cookie,
            run: Run::Starting,
            opened: None,
        }
    }
}

/// Where a running request is, and with that how to end it.
#[derive(Debug, Clone)]
pub(crate) enum Run {
    /// Its task is about to be started.
    Starting,
    /// In this task.
    Task(AbortHandle),
    /// Parked: nothing of it runs.
    Parked(Ticket),
}

#[derive(Debug)]
struct Receiving {
    header: RpcHeader,
    cookie: u64,
    parts: Reassembly,
    at: Instant,
}

/// What the table says to a packet.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing is known of the request.
    Nothing,
    /// These fragments are held; tell the client if `tell`.
    Progress {
        held: Held,
        cookie: u64,
        tell: bool,
        is_parked: bool,
    },
    /// It has been answered.
    Done(Arc<Reply>),
    /// This packet was the last one missing: the request as its first fragment said, and its payload.
    Whole {
        header: RpcHeader,
        cookie: u64,
        payload: bytes::Bytes,
    },
    /// The fragment contradicts the others.
    Bad(FragmentError),
}

/// How much the table holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TableSize {
    pub(crate) receiving: usize,
    pub(crate) receiving_bytes: usize,
    pub(crate) done: usize,
    pub(crate) done_bytes: usize,
    /// Entries pushed out before their time, since the start.
    pub(crate) evicted: u64,
}

/// Every request that has an entry.
#[derive(Debug)]
pub(crate) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    limits: RpcLimits,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<RequestKey, Entry>,
    /// Oldest first. An item whose entry has moved on is skipped when its turn comes.
    receiving: VecDeque<(Instant, RequestKey)>,
    done: VecDeque<(Instant, RequestKey)>,
    size: TableSize,
}

impl Found {
    fn running(count: u16, cookie: u64, run: &Run, opened: Option<&Arc<Reply>>) -> Self {
        if let Some(reply) = opened {
            return Self::Done(Arc::clone(reply));
        }
        Self::Progress {
            held: Held::all(count),
            cookie,
            tell: true,
            is_parked: matches!(run, Run::Parked(_)),
        }
    }
}

impl Table {
    pub(crate) fn new(limits: RpcLimits) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            limits,
        }
    }

    /// What is known of `key`, without changing anything: the answer to a RESUME.
    pub(crate) fn look(&self, key: RequestKey) -> Found {
        match self.shard(key).entries.get(&key) {
            None => Found::Nothing,
            Some(Entry::Receiving(receiving)) => Found::Progress {
                held: receiving.parts.held(),
                cookie: receiving.cookie,
                tell: true,
                is_parked: false,
            },
            Some(Entry::Running {
                count,
                cookie,
                run,
                opened,
            }) => Found::running(*count, *cookie, run, opened.as_ref()),
            Some(Entry::Done { reply, .. }) => Found::Done(Arc::clone(reply)),
        }
    }

    /// Takes in a packet of a request that may have an entry. When its payload is whole, the entry is
    /// already that of a running request.
    pub(crate) fn take(&self, key: RequestKey, header: &RpcHeader, payload: &[u8]) -> Found {
        let mut shard = self.shard(key);
        let shard = &mut *shard;
        let Some(entry) = shard.entries.get_mut(&key) else {
            return Found::Nothing;
        };
        let receiving = match entry {
            Entry::Receiving(receiving) => receiving,
            Entry::Running {
                count,
                cookie,
                run,
                opened,
            } => return Found::running(*count, *cookie, run, opened.as_ref()),
            // Sent again it begins with its first fragment; any other is a late one of what was refused.
            Entry::Done { reply, .. } if reply.is_refusal() && header.fragment_index == 0 => {
                return Found::Nothing;
            }
            Entry::Done { reply, .. } => return Found::Done(Arc::clone(reply)),
        };
        let before = receiving.parts.memory();
        let added = receiving
            .parts
            .add(header.fragment_index, header.fragment_count, payload);
        shard.size.receiving_bytes = shard.size.receiving_bytes + receiving.parts.memory() - before;
        let is_last = header.fragment_index + 1 == header.fragment_count;
        let tell = header.fragment_index == 0 || is_last;
        let found = match added {
            Err(error) => return Found::Bad(error),
            Ok(Added::Kept | Added::Duplicate) => Found::Progress {
                held: receiving.parts.held(),
                cookie: receiving.cookie,
                tell,
                is_parked: false,
            },
            Ok(Added::Complete) => shard.complete(key),
        };
        shard.shrink(&self.limits);
        found
    }

    /// Makes an entry for a request of several fragments, of which the first is here.
    pub(crate) fn begin(
        &self,
        key: RequestKey,
        header: RpcHeader,
        payload: &[u8],
        cookie: u64,
        now: Instant,
    ) -> Found {
        let mut parts = Reassembly::new(header.fragment_count);
        if let Err(error) = parts.add(header.fragment_index, header.fragment_count, payload) {
            return Found::Bad(error);
        }
        let held = parts.held();
        let mut shard = self.shard(key);
        shard.size.receiving += 1;
        shard.size.receiving_bytes += parts.memory() + ENTRY_BYTES;
        let entry = Entry::Receiving(Box::new(Receiving {
            header,
            cookie,
            parts,
            at: now,
        }));
        shard.replace(key, entry);
        shard.receiving.push_back((now, key));
        shard.expire(&self.limits, now);
        shard.shrink(&self.limits);
        Found::Progress {
            held,
            cookie,
            tell: true,
            is_parked: false,
        }
    }

    /// Makes an entry for a request that is about to run.
    pub(crate) fn start(&self, key: RequestKey, count: u16, cookie: u64) {
        let mut shard = self.shard(key);
        shard.replace(key, Entry::starting(count, cookie));
    }

    /// Says that a running request goes on as a stream: what to tell its client from now on.
    pub(crate) fn opened(&self, key: RequestKey, reply: &Arc<Reply>) {
        if let Some(Entry::Running { opened, .. }) = self.shard(key).entries.get_mut(&key) {
            *opened = Some(Arc::clone(reply));
        }
    }

    /// Says in which task a request runs, unless that has parked it or ended already.
    pub(crate) fn runs_in(&self, key: RequestKey, task: AbortHandle) {
        if let Some(Entry::Running { run, .. }) = self.shard(key).entries.get_mut(&key)
            && matches!(run, Run::Starting)
        {
            *run = Run::Task(task);
        }
    }

    /// Says where a running request is now.
    pub(crate) fn now_is(&self, key: RequestKey, now: Run) {
        if let Some(Entry::Running { run, .. }) = self.shard(key).entries.get_mut(&key) {
            *run = now;
        }
    }

    /// Where a request is, if it runs.
    pub(crate) fn run_of(&self, key: RequestKey) -> Option<Run> {
        match self.shard(key).entries.get(&key) {
            Some(Entry::Running { run, .. }) => Some(run.clone()),
            _ => None,
        }
    }

    /// Keeps the reply of a request that ran; of one that was refused, for whoever asks after it, until it is sent again.
    pub(crate) fn finish(&self, key: RequestKey, reply: &Arc<Reply>, now: Instant) {
        let mut shard = self.shard(key);
        shard.size.done += 1;
        shard.size.done_bytes += reply.payload.len() + ENTRY_BYTES;
        let entry = Entry::Done {
            reply: Arc::clone(reply),
            at: now,
        };
        shard.replace(key, entry);
        shard.done.push_back((now, key));
        shard.expire(&self.limits, now);
        shard.shrink(&self.limits);
    }

    /// Forgets a request that nothing is known of any more. One that has been answered meanwhile is kept.
    pub(crate) fn forget(&self, key: RequestKey) {
        let mut shard = self.shard(key);
        if let Some(Entry::Running { .. }) = shard.entries.get(&key) {
            shard.entries.remove(&key);
        }
    }

    /// Forgets whatever is too old.
    pub(crate) fn expire(&self, now: Instant) {
        for shard in &self.shards {
            lock(shard).expire(&self.limits, now);
        }
    }

    pub(crate) fn size(&self) -> TableSize {
        self.shards.iter().fold(TableSize::default(), |sum, shard| {
            let size = lock(shard).size;
            TableSize {
                receiving: sum.receiving + size.receiving,
                receiving_bytes: sum.receiving_bytes + size.receiving_bytes,
                done: sum.done + size.done,
                done_bytes: sum.done_bytes + size.done_bytes,
                evicted: sum.evicted + size.evicted,
            }
        })
    }

    fn shard(&self, key: RequestKey) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        lock(&self.shards[index])
    }
}

impl Shard {
    fn complete(&mut self, key: RequestKey) -> Found {
        match self.entries.remove(&key) {
            Some(Entry::Receiving(receiving)) => {
                self.size.subtract_receiving(&receiving);
                let Receiving {
                    header,
                    cookie,
                    parts,
                    ..
                } = *receiving;
                let count = header.fragment_count;
                self.entries.insert(key, Entry::starting(count, cookie));
                Found::Whole {
                    header,
                    cookie,
                    payload: parts.into_message(),
                }
            }
            // The caller has just seen it receiving, under the same lock.
            _ => Found::Nothing,
        }
    }

    fn replace(&mut self, key: RequestKey, entry: Entry) {
        if let Some(old) = self.entries.insert(key, entry) {
            self.size.subtract(&old);
        }
    }

    fn expire(&mut self, limits: &RpcLimits, now: Instant) {
        while let Some((at, _)) = self.receiving.front()
            && now.saturating_duration_since(*at) > limits.reassembly()
        {
            self.drop_oldest_receiving();
        }
        while let Some((at, _)) = self.done.front()
            && now.saturating_duration_since(*at) > limits.reply_cache()
        {
            self.drop_oldest_done();
        }
    }

    fn shrink(&mut self, limits: &RpcLimits) {
        while self.size.receiving_bytes > limits.reassembly_bytes / SHARDS
            && !self.receiving.is_empty()
        {
            self.size.evicted += u64::from(self.drop_oldest_receiving());
        }
        while self.size.done_bytes > limits.reply_cache_bytes / SHARDS && !self.done.is_empty() {
            self.size.evicted += u64::from(self.drop_oldest_done());
        }
    }

    fn drop_oldest_receiving(&mut self) -> bool {
        let Some((queued_at, key)) = self.receiving.pop_front() else {
            return false;
        };
        let is_it =
            matches!(self.entries.get(&key), Some(Entry::Receiving(it)) if it.at == queued_at);
        self.drop_entry_if(is_it, key)
    }

    fn drop_oldest_done(&mut self) -> bool {
        let Some((queued_at, key)) = self.done.pop_front() else {
            return false;
        };
        let is_it =
            matches!(self.entries.get(&key), Some(Entry::Done { at, .. }) if *at == queued_at);
        self.drop_entry_if(is_it, key)
    }

    fn drop_entry_if(&mut self, is_it: bool, key: RequestKey) -> bool {
        if is_it && let Some(entry) = self.entries.remove(&key) {
            self.size.subtract(&entry);
        }
        is_it
    }
}

impl TableSize {
    fn subtract(&mut self, entry: &Entry) {
        match entry {
            Entry::Receiving(receiving) => self.subtract_receiving(receiving),
            Entry::Running { .. } => (),
            Entry::Done { reply, .. } => {
                self.done -= 1;
                self.done_bytes -= reply.payload.len() + ENTRY_BYTES;
            }
        }
    }

    fn subtract_receiving(&mut self, receiving: &Receiving) {
        self.receiving -= 1;
        self.receiving_bytes -= receiving.parts.memory() + ENTRY_BYTES;
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A shard is whole between any two statements that could panic.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
