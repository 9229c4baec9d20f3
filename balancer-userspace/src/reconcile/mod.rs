//! From what the maps hold to what they should hold: an ordered list of writes. Pure.
//!
//! Invariant: after *every prefix* of the list, a packet that had a route before (to a worker that
//! is not dead) and has one afterwards has one. Hence the order of [`plan`]. The list may be abandoned
//! at any point: the next plan starts from what was written.
//!
//! Not covered: a function whose affinity changes in the same step as the table it then uses, and workers behind interfaces
//! that go where so many come that `PORTS` has no room for both.

mod rules;
pub mod tables;

use std::collections::BTreeMap;

use ebpf_common::{
    ids::WorkerId,
    limits::{MAGLEV_TABLE_LEN, MAX_POOLS, MAX_PORTS, SLOTS},
    maps::{WorkerInfo, WorkerState},
};
use tables::{ActualTables, DesiredTables, HOME_LEN, MapWrite};

/// The writes that lead from `actual` to `desired`.
#[must_use]
pub fn plan(desired: &DesiredTables, actual: &ActualTables) -> Vec<MapWrite> {
    let mut writes = Vec::new();
    // Ports first: a row may name them.
    let (leaving, staying) = leaving_ports(desired, actual);
    writes.extend(leaving.into_iter().map(MapWrite::RemovePort));
    let new = desired.ports.difference(&actual.ports);
    writes.extend(new.copied().map(MapWrite::AddPort));
    // A dead worker answers nobody: the sooner its row says so the better, and the rules pass it over.
    worker_writes(&desired.workers, actual, When::Dead, &mut writes);
    worker_writes(&desired.workers, actual, When::Takes, &mut writes);
    // Now every worker that the new tables name is there.
    table_writes(desired, actual, &mut writes);
    // VIPs after the tables of their pools.
    if let Some(rules) = &desired.rules {
        rules::additions(rules, actual, &mut writes);
    }
    // Functions after the tables: one that loses its warm workers falls through to its home.
    function_writes(desired, actual, &mut writes);
    // No live table names these any more.
    worker_writes(&desired.workers, actual, When::Leaves, &mut writes);
    if let Some(rules) = &desired.rules {
        rules::removals(rules, actual, &mut writes);
    }
    removals(desired, actual, &mut writes);
    writes.extend(staying.into_iter().map(MapWrite::RemovePort));
    writes
}

/// The ports that are not to be there: those that must go first, because `PORTS` has no room beside them for the new ones,
/// and those that may stay until nothing names them any more.
fn leaving_ports(desired: &DesiredTables, actual: &ActualTables) -> (Vec<u32>, Vec<u32>) {
    let mut gone: Vec<u32> = actual.ports.difference(&desired.ports).copied().collect();
    let together = actual.ports.union(&desired.ports).count();
    let surplus = together.saturating_sub(MAX_PORTS as usize).min(gone.len());
    if surplus > 0 {
        // Those that no worker is behind.
        gone.sort_by_key(|port| actual.workers.iter().any(|row| row.ifindex == *port));
    }
    let staying = gone.split_off(surplus);
    (gone, staying)
}

/// The part of the plan that must not wait for new tables to be made: the workers that went down. A
/// worker that came back waits for its port, which the plan writes before it.
#[must_use]
pub fn urgent(workers: &BTreeMap<WorkerId, WorkerInfo>, actual: &ActualTables) -> Vec<MapWrite> {
    let mut writes = Vec::new();
    worker_writes(workers, actual, When::Dead, &mut writes);
    writes
}

/// At which point of the plan a worker's row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// It went down.
    Dead,
    /// It takes work now that it did not take before, or is reached another way.
    Takes,
    /// It takes less than before, or is not known any more.
    Leaves,
}

fn when(from: &WorkerInfo, to: &WorkerInfo) -> When {
    match to.state() {
        WorkerState::Down => When::Dead,
        WorkerState::Up => When::Takes,
        WorkerState::Draining if from.takes_new_work() => When::Leaves,
        WorkerState::Draining => When::Takes,
        WorkerState::Absent => When::Leaves,
    }
}

fn worker_writes(
    workers: &BTreeMap<WorkerId, WorkerInfo>,
    actual: &ActualTables,
    wanted: When,
    writes: &mut Vec<MapWrite>,
) {
    for (id, to) in workers {
        let from = &actual.workers[usize::from(id.0)];
        if from != to && when(from, to) == wanted {
            writes.push(MapWrite::Worker(*id, *to));
        }
    }
}

/// Writes what differs into the standby copies, then makes them live by the configuration's generation.
fn table_writes(desired: &DesiredTables, actual: &ActualTables, writes: &mut Vec<MapWrite>) {
    let live = actual.config.generation;
    let homes = || {
        (0u8..)
            .zip(&desired.homes)
            .filter_map(|(pool, table)| Some((pool, table.as_ref()?)))
    };
    let is_live = homes().all(|(pool, table)| actual.home_of(live, pool) == table.as_slice());
    if is_live && actual.slots_of(live) == desired.slots.as_slice() {
        return;
    }
    let standby = live.wrapping_add(1);
    let start = (standby & 1) * SLOTS;
    for (index, should) in differences(actual.slots_of(standby), &desired.slots) {
        writes.push(MapWrite::Slot(start + index, should));
    }
    for (pool, table) in homes() {
        let start = (standby & 1) * HOME_LEN + u32::from(pool) * MAGLEV_TABLE_LEN;
        for (index, should) in differences(actual.home_of(standby, pool), table) {
            writes.push(MapWrite::Home(start + index, should));
        }
    }
    // A packet that read the old generation an instant ago may still look at the copy that the *next*
    // plan writes; it then finds a worker of either table, and each of them has a row.
    writes.push(MapWrite::Generation(standby));
}

/// The writes that make the standby copies the same as the live ones, so that the next plan has only to write what it
/// changes. To be carried out a while after a generation was made live: a packet may still look at the other one.
#[must_use]
pub fn standby_writes(actual: &ActualTables) -> Vec<MapWrite> {
    let live = actual.config.generation;
    let standby = live.wrapping_add(1);
    let mut writes = Vec::new();
    let start = (standby & 1) * SLOTS;
    for (index, should) in differences(actual.slots_of(standby), actual.slots_of(live)) {
        writes.push(MapWrite::Slot(start + index, should));
    }
    for pool in 0..MAX_POOLS as u8 {
        let start = (standby & 1) * HOME_LEN + u32::from(pool) * MAGLEV_TABLE_LEN;
        let (is, should) = (actual.home_of(standby, pool), actual.home_of(live, pool));
        for (index, should) in differences(is, should) {
            writes.push(MapWrite::Home(start + index, should));
        }
    }
    writes
}

fn differences<'a>(
    is: &'a [WorkerId],
    should: &'a [WorkerId],
) -> impl Iterator<Item = (u32, WorkerId)> + 'a {
    (0..)
        .zip(is.iter().zip(should))
        .filter(|(_, (is, should))| is != should)
        .map(|(index, (_, should))| (index, *should))
}

fn function_writes(desired: &DesiredTables, actual: &ActualTables, writes: &mut Vec<MapWrite>) {
    for (id, entry) in desired.functions.iter().flatten() {
        if actual.functions.get(id) != Some(entry) {
            writes.push(MapWrite::Function(*id, *entry));
        }
    }
}

fn removals(desired: &DesiredTables, actual: &ActualTables, writes: &mut Vec<MapWrite>) {
    if let Some(functions) = &desired.functions {
        let gone = actual
            .functions
            .keys()
            .filter(|id| !functions.contains_key(id));
        writes.extend(gone.copied().map(MapWrite::RemoveFunction));
    }
}

#[cfg(test)]
mod tests;
