//! The loads that the program keeps: a look at all of them, and what follows from it.
//!
//! A row that has taken in a LOAD packet takes in no heartbeat, and each request adds to what its worker has in flight.
//! Should the packets not come any more while the worker lives, nothing would ever put that right, and the worker would
//! seem full for ever. So a row that no packet has moved for [`SILENCE`] is given back to the heartbeats.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ebpf_common::{ids::WorkerId, maps::WorkerLoad};
use tracing::warn;

use super::Controller;
use crate::{loads::Report, maps::MapStore, policy, reconcile::tables::MapWrite};

/// A worker sends a LOAD packet every 10 ms at least, so this is a hundred in a row that did not come.
pub(super) const SILENCE: Duration = Duration::from_secs(1);
/// Requests that are sent to a worker within [`SILENCE`] without one being received before it counts as deaf. It does not
/// count those that it refuses, or that it has answered already.
const UNHEARD: u64 = 8;
/// The bound on homes is written when it moves by more than one part in as many.
const BOUND_STEP: u64 = 8;
/// Requests per worker of normal weight below which there is no bound: where next to nothing is in flight, one request
/// more is not an imbalance.
const BOUND_LEAST: u64 = 4;

/// Since when the rows of workers hold the LOAD packet that they hold. The times in the rows are of a clock that only the
/// program has.
#[derive(Debug, Default)]
pub(super) struct Reports(BTreeMap<WorkerId, Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    sequence: u64,
    since: Instant,
    /// What was sent to it when `received` moved last, or when nothing was on its way.
    sent: u64,
    received: u64,
    /// When that was.
    heard: Instant,
    /// What was sent to it since.
    unheard: u64,
}

impl Reports {
    /// Takes in what the row of `id` holds at `now`. Returns whether its worker has fallen silent.
    pub(super) fn see(&mut self, id: WorkerId, load: &WorkerLoad, now: Instant) -> bool {
        let new = Seen {
            sequence: load.sequence,
            since: now,
            sent: load.sent,
            received: load.received,
            heard: now,
            unheard: 0,
        };
        let seen = self.0.entry(id).or_insert(new);
        if seen.sequence != load.sequence {
            seen.sequence = load.sequence;
            seen.since = now;
        }
        // One that is full refuses requests, and does not count them.
        let is_full = load.in_flight >= load.capacity;
        if seen.sent == load.sent || seen.received != load.received || is_full {
            *seen = Seen {
                since: seen.since,
                ..new
            };
        }
        seen.unheard = load.sent.wrapping_sub(seen.sent);
        load.sequence != 0 && now.saturating_duration_since(seen.since) >= SILENCE
    }

    /// Whether a LOAD packet of `id` came `within` that time before `now`, and requests reach it. The packets alone say
    /// too little: a thread of their own sends them, whatever has become of the rest of the worker.
    pub(super) fn speaks(&self, id: WorkerId, now: Instant, within: Duration) -> bool {
        self.0.get(&id).is_some_and(|seen| {
            let since = |at: Instant| now.saturating_duration_since(at);
            let is_deaf = seen.unheard >= UNHEARD && since(seen.heard) >= SILENCE;
            seen.sequence != 0 && since(seen.since) < within && !is_deaf
        })
    }

    /// The worker is gone, or the row is another's.
    pub(super) fn forget(&mut self, id: WorkerId) {
        self.0.remove(&id);
    }
}

impl<S: MapStore> Controller<S> {
    /// Reads the loads that the program keeps, for the bound on homes, for warm sets with more candidates than places, and
    /// for people.
    pub(super) fn look_at_loads(&mut self, now: Instant) {
        let members = self.membership.iter();
        let alive = members.filter(|(_, member)| member.is_alive);
        let alive: Vec<WorkerId> = alive.map(|(id, _)| id).collect();
        let mut in_flight = 0;
        let mut silent = Vec::new();
        let mut lost = Vec::new();
        for id in alive {
            let Some(load) = self.applier.load(id) else {
                continue;
            };
            let is_silent = self.reports.see(id, &load, now);
            if self.presumed.contains(&id) {
                if !self.is_presumable(id, now) {
                    lost.push(id);
                    continue;
                }
            } else if is_silent && self.fall_back(id) {
                silent.push(id);
                continue;
            }
            if self.homes.takes(id) {
                in_flight += u64::from(load.in_flight_now());
            }
            if load.sequence != 0 {
                let report = Report {
                    in_flight: load.in_flight_now(),
                    capacity: load.capacity,
                };
                self.observe(id, report);
            }
        }
        for id in lost {
            self.suspend(id, "its connection was lost, and then its LOAD packets");
        }
        self.tell_of_silence(&silent);
        self.bound_homes(in_flight);
    }

    /// Has the last heartbeat of a worker whose LOAD packets do not come count. Returns false if there is none: who has
    /// not connected since we started may as well be dead.
    fn fall_back(&mut self, id: WorkerId) -> bool {
        let Some(report) = self.loads.get(id).and_then(|load| load.said) else {
            return false;
        };
        self.applier.restart_load(id, report);
        self.observe(id, report);
        true
    }

    /// The worker connected anew, perhaps with a clock that is behind, and so are then the sequence numbers of its LOAD
    /// packets. What it said last stays until its first heartbeat.
    pub(super) fn restart_load(&mut self, id: WorkerId) {
        self.reports.forget(id);
        self.loads.forget_report(id);
        if let Some(load) = self.applier.load(id) {
            let report = Report {
                in_flight: load.in_flight,
                capacity: load.capacity,
            };
            self.applier.restart_load(id, report);
        }
    }

    fn observe(&mut self, id: WorkerId, report: Report) {
        let step = policy::load_step(&self.loads, id);
        if self.loads.observe(id, report) {
            self.publish_load(id, report);
        }
        if policy::load_step(&self.loads, id) != step {
            self.load_step_changed(id);
        }
    }

    fn tell_of_silence(&self, silent: &[WorkerId]) {
        let Some(member) = silent.first().and_then(|id| self.membership.get(*id)) else {
            return;
        };
        self.metrics.load_silences.inc_by(silent.len() as u64);
        warn!(
            workers = silent.len(),
            first = member.identity.name,
            "LOAD packets do not come any more: heartbeats count; `warmpath status` shows whether the program refuses them"
        );
    }

    fn bound_homes(&mut self, in_flight: u64) {
        let bound = home_bound(
            in_flight,
            self.homes.total_weight(),
            self.config.home.bound_percent,
        );
        let is = self.applier.actual().config.home_bound;
        if is_news(is, bound) {
            self.applier.write_now(&[MapWrite::HomeBound(bound)]);
        }
    }
}

/// `1 + percent / 100` times the mean load of a unit of weight, in 256ths of a request (Mirrokni, Thorup and Zadimoghaddam,
/// "Consistent hashing with bounded loads", SODA '18).
fn home_bound(in_flight: u64, total_weight: u64, percent: u32) -> u32 {
    if percent == 0 || total_weight == 0 {
        return 0;
    }
    // The program compares 256ths of what is in flight with bound × weight.
    let mean_least = BOUND_LEAST * total_weight / u64::from(ebpf_common::maps::NORMAL_WEIGHT);
    let in_flight = in_flight.max(mean_least).max(1);
    let bound = in_flight * 256 * (100 + u64::from(percent)) / (100 * total_weight);
    u32::try_from(bound.max(1)).unwrap_or(u32::MAX)
}

fn is_news(is: u32, bound: u32) -> bool {
    let moved = u64::from(is.abs_diff(bound));
    is != bound && (is == 0 || bound == 0 || moved * BOUND_STEP > u64::from(is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_mean_and_a_part_more() {
        // Four workers of normal weight with 100 in flight each: a quarter more is 125.
        let bound = home_bound(400, 1024, 25);
        assert_eq!(u64::from(bound) * 256 / 256, 125);
        assert_eq!(home_bound(400, 1024, 0), 0);
        assert_eq!(home_bound(400, 0, 25), 0);
        // Idle: four requests and a quarter more.
        assert_eq!(home_bound(0, 1024, 25), 5);
    }

    #[test]
    fn a_bound_that_moved_little_is_not_written() {
        assert!(is_news(0, 125));
        assert!(!is_news(125, 125));
        assert!(!is_news(125, 140));
        assert!(is_news(125, 141));
        assert!(is_news(125, 100));
    }
}
