//! Looking up and writing a row of places (see [`ebpf_common::maps::Place`]).
//!
//! Two CPUs that place the same key at the same moment may both write it: the first place in the row then holds, and
//! the other one ages away. NICs steer the packets of one flow to one CPU, so it takes a client that changes its port.

use ebpf_common::{hash::TableHash, ids::WorkerId, limits::PLACES_PER_ROW, maps::Place};

use crate::Row;

/// What had to be done to write a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// The key's own entry was changed.
    Changed,
    /// An empty place was taken.
    Created,
    /// Another key's entry was given up.
    Evicted,
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

/// Remembers that `hash` lives on `worker`.
#[inline(always)]
pub(super) fn store(row: &Row, hash: TableHash, worker: WorkerId) -> Stored {
    // It is stored in any case.
    store_if(row, hash, worker, || true).unwrap_or(Stored::Evicted)
}

/// As [`store`], but takes another key's place only if `may_evict` says so; `None` if it does not.
#[inline(always)]
pub(super) fn store_if(
    row: &Row,
    hash: TableHash,
    worker: WorkerId,
    may_evict: impl FnOnce() -> bool,
) -> Option<Stored> {
    // As used: a new entry must not be the next victim before its second packet could come.
    let entry = Place::new(hash, worker).with_referenced(true).0;
    let mut empty = None;
    for cell in row {
        let place = Place(cell.get());
        if place.is_of(hash) {
            cell.set(entry);
            return Some(Stored::Changed);
        }
        if place.is_empty() && empty.is_none() {
            empty = Some(cell);
        }
    }
    if let Some(cell) = empty {
        cell.set(entry);
        return Some(Stored::Created);
    }
    if !may_evict() {
        return None;
    }
    evict(row, hash, entry);
    Some(Stored::Evicted)
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
