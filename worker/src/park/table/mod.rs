//! Who is parked, and whom a feed's move or the passing of time wakes. No I/O, no clock, no lock.
//!
//! Invariants: what is parked is woken or taken exactly once; a feed has an entry exactly as long as it is followed,
//! so that there is one follower for all who wait for it; nobody is kept waiting behind a head that is known.

use std::collections::{BTreeSet, HashMap};

use db::Cursor;
use ebpf_common::ids::SlotId;
use tokio::time::Instant;

/// Names something parked; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What somebody waits for. The earlier of both wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// The feed, and the cursor that it must get beyond.
    pub feed: Option<(SlotId, Cursor)>,
    /// The time.
    pub time: Instant,
}

/// What became of an attempt to park.
#[derive(Debug, PartialEq, Eq)]
pub enum Placed<T> {
    /// It waits; `follow` names the feed that has to be followed from now on.
    Waits {
        /// To take it back.
        ticket: Ticket,
        /// A feed that nobody followed so far.
        follow: Option<SlotId>,
    },
    /// The feed is beyond the cursor already.
    Moved {
        /// What was to be parked.
        item: T,
        /// Where the feed is.
        head: Cursor,
    },
    /// There is no room; it comes back.
    Full(T),
}

#[derive(Debug)]
struct Parked<T> {
    until: Until,
    bytes: usize,
    item: T,
}

/// Those who wait for one feed.
#[derive(Debug, Default)]
struct Waiters {
    head: Cursor,
    by_cursor: BTreeSet<(Cursor, Ticket)>,
}

/// Everything parked, of any kind `T`.
#[derive(Debug)]
pub struct ParkTable<T> {
    parked: HashMap<Ticket, Parked<T>>,
    feeds: HashMap<SlotId, Waiters>,
    by_time: BTreeSet<(Instant, Ticket)>,
    tickets: u64,
    bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl<T> ParkTable<T> {
    /// A table with room for `most` items of `most_bytes` together.
    #[must_use]
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            parked: HashMap::new(),
            feeds: HashMap::new(),
            by_time: BTreeSet::new(),
            tickets: 0,
            bytes: 0,
            most,
            most_bytes,
        }
    }

    /// Parks `item`, which holds `bytes`.
    pub fn park(&mut self, until: Until, bytes: usize, item: T) -> Placed<T> {
        if self.parked.len() >= self.most || self.bytes + bytes > self.most_bytes {
            return Placed::Full(item);
        }
        let ticket = Ticket(self.tickets);
        let mut follow = None;
        if let Some((slot, cursor)) = until.feed {
            let waiters = self.feeds.entry(slot).or_insert_with(|| {
                follow = Some(slot);
                Waiters::default()
            });
            if waiters.head > cursor {
                let head = waiters.head;
                return Placed::Moved { item, head };
            }
            waiters.by_cursor.insert((cursor, ticket));
        }
        self.tickets += 1;
        self.bytes += bytes;
        self.by_time.insert((until.time, ticket));
        let parked = Parked { until, bytes, item };
        self.parked.insert(ticket, parked);
        Placed::Waits { ticket, follow }
    }

    /// The feed of `slot` is at `head` now: everybody it wakes. Heads never go back: an older one changes nothing.
    pub fn moved(&mut self, slot: SlotId, head: Cursor) -> Vec<T> {
        let Some(waiters) = self.feeds.get_mut(&slot) else {
            return Vec::new();
        };
        waiters.head = waiters.head.max(head);
        let behind = waiters.by_cursor.split_off(&(waiters.head, Ticket(0)));
        let woken = std::mem::replace(&mut waiters.by_cursor, behind);
        let woken = woken.into_iter().map(|(_, ticket)| ticket);
        woken.filter_map(|ticket| self.remove(ticket)).collect()
    }

    /// Whether anybody waits for the feed of `slot`. If not it is forgotten, and its follower has to end.
    pub fn is_awaited(&mut self, slot: SlotId) -> bool {
        let awaited = self
            .feeds
            .get(&slot)
            .is_some_and(|waiters| !waiters.by_cursor.is_empty());
        if !awaited {
            self.feeds.remove(&slot);
        }
        awaited
    }

    /// At most `most` of those whose time is up at `now`, the longest due first, with the cursor each was at.
    pub fn due(&mut self, now: Instant, most: usize) -> Vec<(Cursor, T)> {
        let mut due = Vec::new();
        while due.len() < most
            && let Some((time, ticket)) = self.by_time.first().copied()
            && time <= now
        {
            let cursor = (self
                .parked
                .get(&ticket)
                .and_then(|parked| parked.until.feed))
            .map_or(Cursor::START, |(_, cursor)| cursor);
            due.extend(self.take(ticket).map(|item| (cursor, item)));
        }
        due
    }

    /// When [`ParkTable::due`] has somebody to tell of next.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.by_time.first().map(|(time, _)| *time)
    }

    /// Takes back what is parked under `ticket`, if it still is.
    pub fn take(&mut self, ticket: Ticket) -> Option<T> {
        if let Some((slot, cursor)) = self.parked.get(&ticket)?.until.feed
            && let Some(waiters) = self.feeds.get_mut(&slot)
        {
            waiters.by_cursor.remove(&(cursor, ticket));
        }
        self.remove(ticket)
    }

    /// Takes back everything.
    pub fn take_all(&mut self) -> Vec<T> {
        self.by_time.clear();
        self.bytes = 0;
        for waiters in self.feeds.values_mut() {
            waiters.by_cursor.clear();
        }
        let parked = std::mem::take(&mut self.parked);
        parked.into_values().map(|parked| parked.item).collect()
    }

    /// What is parked, and until when; those first that time wakes first.
    pub fn iter(&self) -> impl Iterator<Item = (Until, &T)> {
        let parked = self.by_time.iter();
        parked.filter_map(|(_, ticket)| {
            let parked = self.parked.get(ticket)?;
            Some((parked.until, &parked.item))
        })
    }

    /// How many are parked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parked.len()
    }

    /// Whether nothing is parked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// What they hold.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Removes it from all but its feed.
    fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let parked = self.parked.remove(&ticket)?;
        self.by_time.remove(&(parked.until.time, ticket));
        self.bytes -= parked.bytes;
        Some(parked.item)
    }
}

#[cfg(test)]
mod tests;
