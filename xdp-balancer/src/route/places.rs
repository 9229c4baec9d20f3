//! Looking up and writing a row of places (see [`ebpf_common::maps::Place`]).
//!
//! Two CPUs that place the same key at the same moment may both write it: the first place in the row then holds, and
//! the other one ages away. NICs steer the packets of one flow to one CPU, so it takes a client that changes its port.

use ebpf_common::{
    hash::TableHash,
    ids::WorkerId,
    limits::PLACES_PER_ROW,
    maps::{Counter, Place, row_index},
};

use crate::{Row, Tables, police};

/// Whose place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// A session's, in `SESSIONS`.
    Session = 0,
    /// A flow's, in `FLOWS`. A new one takes another's place only within the rate of evictions.
    Flow = 1,
    /// That of a message of several fragments, in `FLOWS`.
    Message = 2,
}

impl Key {
    /// The key of number `code`; of any number but those above too.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Session,
            1 => Self::Flow,
            _ => Self::Message,
        }
    }

    /// The row of `hash`, if there is such a table.
    #[inline(always)]
    fn row<T: Tables>(self, hash: TableHash, tables: &T) -> Option<&Row> {
        let config = tables.config()?;
        match self {
            Self::Session => tables.session_row(row_index(hash, config.session_mask)),
            Self::Flow | Self::Message => tables.flow_row(row_index(hash, config.flow_mask)),
        }
    }
}

/// What had to be done to write a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stored {
    /// There is no table.
    Nowhere = 0,
    /// The key's own entry was changed.
    Changed = 1,
    /// An empty place was taken.
    Created = 2,
    /// Another key's entry was given up.
    Evicted = 3,
    /// The row is full, and no entry may be given up.
    NotKept = 4,
}

impl Stored {
    /// What number `code` says; of any number but those above too.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Nowhere,
            1 => Self::Changed,
            2 => Self::Created,
            3 => Self::Evicted,
            _ => Self::NotKept,
        }
    }
}

/// Where `hash` lives. The entry counts as used.
#[inline(always)]
pub(super) fn find(row: &Row, hash: TableHash) -> Option<WorkerId> {
    for cell in row {
        let place = Place(cell.get());
        if place.is_of(hash) {
            // Written once for many uses: a line that is only read stays in the caches of all CPUs.
            if !place.is_referenced() {
                cell.set(place.with_referenced(true).0);
            }
            return Some(place.worker());
        }
    }
    None
}

/// Remembers where a flow or a message lives, and counts it.
#[inline(always)]
pub(super) fn remember_in_flows<T: Tables>(
    key: Key,
    hash: TableHash,
    worker: WorkerId,
    tables: &T,
) {
    tables.count(match tables.store_place(key, hash, worker) {
        Stored::Nowhere => return,
        Stored::Changed => Counter::FlowMoved,
        Stored::Created => Counter::FlowCreated,
        Stored::Evicted => Counter::FlowEvicted,
        Stored::NotKept => Counter::FlowNotKept,
    });
}

/// Remembers that `hash` lives on `worker`.
///
/// In the kernel a global function, as [`super::home::search`]: sessions, flows and messages share it, and the verifier looks
/// at it once.
#[inline(always)]
pub fn store<T: Tables>(key: Key, hash: TableHash, worker: WorkerId, tables: &T) -> Stored {
    let Some(row) = key.row(hash, tables) else {
        return Stored::Nowhere;
    };
    // As used: a new entry must not be the next victim before its second packet could come.
    let entry = Place::new(hash, worker).with_referenced(true).0;
    let mut empty = None;
    for cell in row {
        let place = Place(cell.get());
        if place.is_of(hash) {
            cell.set(entry);
            return Stored::Changed;
        }
        if place.is_empty() && empty.is_none() {
            empty = Some(cell);
        }
    }
    if let Some(cell) = empty {
        cell.set(entry);
        return Stored::Created;
    }
    if key == Key::Flow && !police::eviction(tables) {
        return Stored::NotKept;
    }
    evict(row, hash, entry);
    Stored::Evicted
}

/// Gives the place of an entry that was not used lately to `entry`. The search begins where the hash says, so that not
/// the first place of each row bears every change.
#[inline(always)]
fn evict(row: &Row, hash: TableHash, entry: u64) {
    let start = (hash.fingerprint >> 60) as u32;
    for step in 0..PLACES_PER_ROW {
        let Some(cell) = row.get(((start + step) % PLACES_PER_ROW) as usize) else {
            return;
        };
        let place = Place(cell.get());
        if !place.is_referenced() {
            cell.set(entry);
            return;
        }
        cell.set(place.with_referenced(false).0);
    }
    // All were used since the last search: now none counts as used, and the first goes.
    if let Some(cell) = row.get((start % PLACES_PER_ROW) as usize) {
        cell.set(entry);
    }
}
