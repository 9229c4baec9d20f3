//! Rule 5: the function's home in the Maglev table (Eisenbud et al., NSDI '16), so that cold starts of
//! a function land where its code is cached. When that worker takes no new work, or has more than its share ("bounded
//! loads", Mirrokni et al., SODA '18), the next entries are tried, up to [`HOME_PROBES`]: they lead all functions of one
//! worker to different ones. The rule for flows without an entry is the same.

use ebpf_common::{
    limits::HOME_PROBES,
    maps::{Config, Counter, WorkerInfo, WorkerLoad, home_index},
};

use super::{Placement, for_new_work};
use crate::{DropReason, Rule, Stop, Tables, balance::Arrival};

/// The first worker from the entry of `hash` on that takes new work and has not more than its share; if all have more,
/// the first that takes new work.
///
/// # Errors
/// `nobody` if none takes new work; dropped if the table is too short.
#[inline(always)]
pub(super) fn place<'t, T: Tables>(
    hash: u64,
    arrival: &Arrival<'_>,
    rule: Rule,
    nobody: Stop,
    tables: &'t T,
) -> Result<Placement<'t>, Stop> {
    let not_configured = Stop::Drop(DropReason::NotConfigured);
    let config = arrival.config;
    let mut fallback = None;
    for probe in 0..HOME_PROBES {
        let index = home_index(config.generation, arrival.vip.pool, hash, probe);
        let worker = tables.home(index).ok_or(not_configured)?;
        // `WorkerId::NONE`, an empty entry, has no row.
        let Some(info) = for_new_work(worker, tables) else {
            continue;
        };
        let placement = Placement { rule, worker, info };
        let load = tables.worker_load(worker).ok_or(not_configured)?;
        if !is_over_bound(info, &load, config) {
            count_detour(probe, fallback.is_some(), tables);
            return Ok(placement);
        }
        if fallback.is_none() {
            fallback = Some(placement);
        }
    }
    fallback.ok_or(nobody)
}

#[inline(always)]
fn count_detour<T: Tables>(probe: u32, was_bounded: bool, tables: &T) {
    if was_bounded {
        tables.count(Counter::HomeBounded);
    } else if probe > 0 {
        tables.count(Counter::HomeProbed);
    }
}

/// Whether the worker has more in flight than its capacity, or than its weight's share of the bound.
#[inline(always)]
fn is_over_bound(info: &WorkerInfo, load: &WorkerLoad, config: &Config) -> bool {
    let in_flight = load.in_flight_now();
    let share = u64::from(config.home_bound) * u64::from(info.weight);
    in_flight >= info.cap_over(load.capacity)
        || config.home_bound != 0 && (u64::from(in_flight) << 8) > share
}
