//! What the clock asks for: new keys, and a look at the loads.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ebpf_common::ids::WorkerId;
use tracing::info;

use super::Controller;
use crate::{
    loads::Report,
    maps::MapStore,
    policy,
    reconcile::tables::{Keys, MapWrite},
};

/// The bound on homes is written when it moves by more than one part in as many.
const BOUND_STEP: u64 = 8;
/// Requests per worker of normal weight below which there is no bound: where next to nothing is in flight, one request
/// more is not an imbalance.
const BOUND_LEAST: u64 = 4;

impl<S: MapStore> Controller<S> {
    /// Keys that an earlier control plane made are as old as it says.
    pub(super) fn schedule_keys(&mut self) {
        if self.keys_made_s == 0 {
            self.keys_made_s = unix_s();
        }
        let age_s = unix_s().saturating_sub(self.keys_made_s);
        let rotate_s = u64::from(self.config.keys.rotate_s);
        self.keys_at = (rotate_s > 0)
            .then(|| Instant::now() + Duration::from_secs(rotate_s.saturating_sub(age_s)));
    }

    pub(super) fn rotate_keys_if_due(&mut self) {
        if self.keys_at.is_some_and(|at| Instant::now() >= at) {
            self.rotate_keys();
        }
    }

    /// A new epoch. The program gets the keys first, in one write: nothing is sealed with them before the workers have
    /// them too, and what was sealed in the epoch that ends stays valid for as long as the new one lasts.
    pub(super) fn rotate_keys(&mut self) {
        let keys = Keys::of(&self.applier.actual().config);
        let fresh = [rand::random(), rand::random(), rand::random()];
        self.applier
            .write_now(&[MapWrite::Keys(keys.rotated(fresh))]);
        self.keys_made_s = unix_s();
        self.schedule_keys();
        self.share();
        self.save();
        let epoch = self.applier.actual().config.key_epoch;
        info!(epoch, "keys made anew");
    }

    /// Reads the loads that the program keeps, for the bound on homes, for warm sets with more candidates than places, and
    /// for people.
    pub(super) fn look_at_loads(&mut self) {
        let takers: Vec<WorkerId> = self.homes.takers().map(|(id, _)| id).collect();
        let mut in_flight = 0;
        for id in takers {
            let Some(load) = self.applier.load(id) else {
                continue;
            };
            in_flight += u64::from(load.in_flight_now());
            if load.sequence == 0 {
                continue;
            }
            let report = Report {
                in_flight: load.in_flight_now(),
                capacity: load.capacity,
            };
            let step = policy::load_step(&self.loads, id);
            if self.loads.observe(id, report) {
                self.publish_load(id, report);
            }
            if policy::load_step(&self.loads, id) != step {
                self.load_step_changed(id);
            }
        }
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

fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
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
