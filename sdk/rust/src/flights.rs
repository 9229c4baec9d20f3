//! The requests in flight, by request id. Sharded, so that callers on several threads rarely meet.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::exchange::Exchange;

const SHARDS: usize = 16;

/// One request in flight: its state, and how to wake the caller who waits for it.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) exchange: Mutex<Exchange>,
    pub(crate) wake: Notify,
}

/// Request ids are random already: hashing them again would be waste.
#[derive(Debug, Default)]
pub(crate) struct RandomId(u64);

impl Hasher for RandomId {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

type Shard = Mutex<HashMap<u64, Arc<Flight>, BuildHasherDefault<RandomId>>>;

/// Every request in flight.
#[derive(Debug)]
pub(crate) struct Flights {
    shards: [Shard; SHARDS],
    count: AtomicUsize,
    limit: usize,
}

impl Flights {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::default()),
            count: AtomicUsize::new(0),
            limit,
        }
    }

    /// Admits a request that `begin` makes from a fresh random id; `None` when the limit is reached.
    pub(crate) fn admit(&self, begin: impl FnOnce(u64) -> Exchange) -> Option<(u64, Arc<Flight>)> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limit {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        loop {
            let id = rand::random();
            let mut shard = crate::lock(self.shard(id));
            if shard.contains_key(&id) {
                continue;
            }
            let flight = Arc::new(Flight {
                exchange: Mutex::new(begin(id)),
                wake: Notify::new(),
            });
            shard.insert(id, Arc::clone(&flight));
            return Some((id, flight));
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Flight>> {
        crate::lock(self.shard(id)).get(&id).map(Arc::clone)
    }

    pub(crate) fn remove(&self, id: u64) {
        if crate::lock(self.shard(id)).remove(&id).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn shard(&self, id: u64) -> &Shard {
        // Not the low bits: the map in the shard uses those.
        let index = (id >> 32) as usize % SHARDS;
        &self.shards[index]
    }
}
