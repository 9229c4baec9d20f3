//! Rule 5: the function's home in the Maglev table (Eisenbud et al., NSDI '16), so that cold starts of
//! a function land where its code is cached. When that worker takes no new work, or has more than its share ("bounded
//! loads", Mirrokni et al., SODA '18), the next entries are tried, up to [`HOME_PROBES`]: they lead all functions of one
//! worker to different ones.
//!
//! Flows without an entry are placed by the same table, but whatever the load is: the next packet of a connection whose
//! entry was evicted, or that now comes by another balancer, must find the same worker.

use ebpf_common::{
    ids::WorkerId,
    limits::HOME_PROBES,
    maps::{Config, Counter, WorkerInfo, WorkerLoad, home_index},
};

use super::{Placement, for_new_work};
use crate::{DropReason, Rule, Stop, Tables, balance::Arrival};

/// What [`search`] came to, in one number: all that a function which the verifier looks at by itself can return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found(pub u64);

impl Found {
    /// The table is too short, or there is none.
    const NOT_CONFIGURED: Self = Self(1 << 16);
    /// No worker takes new work.
    const NOBODY: Self = Self(1 << 17);
    /// The first entry was not the one taken.
    const PROBED: u64 = 1 << 18;
    /// An entry before the one taken had more than its share.
    const BOUNDED: u64 = 1 << 19;

    #[inline(always)]
    const fn worker(self) -> WorkerId {
        WorkerId(self.0 as u16)
    }
}

/// Whether a worker with more than its share is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Bound {
    /// No: the same hash leads to the same worker.
    None = 0,
    /// Yes, while there is another.
    Load = 1,
}

impl Bound {
    /// The bound of number `code`; of any number but those above too.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::None,
            _ => Self::Load,
        }
    }
}

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
    let bound = match rule {
        Rule::Home => Bound::Load,
        _ => Bound::None,
    };
    let found = tables.search_home(hash, arrival.vip.pool, bound);
    if found == Found::NOBODY {
        return Err(nobody);
    }
    let worker = found.worker();
    let info = tables
        .worker(worker)
        .filter(|_| found != Found::NOT_CONFIGURED)
        .ok_or(Stop::Drop(DropReason::NotConfigured))?;
    if found.0 & Found::BOUNDED != 0 {
        tables.count(Counter::HomeBounded);
    } else if found.0 & Found::PROBED != 0 {
        tables.count(Counter::HomeProbed);
    }
    Ok(Placement { rule, worker, info })
}

/// Where the flow of `hash` is placed if it has no entry.
///
/// VERIFIER: not by [`Tables::search_home`], as its caller is a function of its own: three of them, one calling the other, would
/// have 544 bytes of stack, and may have 512.
#[inline(always)]
pub(super) fn of_flow<T: Tables>(hash: u64, pool: u8, tables: &T) -> Option<WorkerId> {
    let found = search(hash, pool, Bound::None, tables);
    (found != Found::NOBODY && found != Found::NOT_CONFIGURED).then(|| found.worker())
}

/// Looks for the worker of `hash` in the table of `pool`.
///
/// In the kernel a global function: the verifier looks at it once, for any arguments, and not again on each of the
/// hundred ways that lead here (Linux 5.6; on 6.1 the program with this in line took over 1,000,000 instructions).
#[inline(always)]
pub fn search<T: Tables>(hash: u64, pool: u8, bound: Bound, tables: &T) -> Found {
    let Some(config) = tables.config() else {
        return Found::NOT_CONFIGURED;
    };
    let mut fallback = None;
    for probe in 0..HOME_PROBES {
        let index = home_index(config.generation, pool, hash, probe);
        let Some(worker) = tables.home(index) else {
            return Found::NOT_CONFIGURED;
        };
        // `WorkerId::NONE`, an empty entry, has no row.
        let Some(info) = for_new_work(worker, tables) else {
            continue;
        };
        let Some(load) = tables.worker_load(worker) else {
            return Found::NOT_CONFIGURED;
        };
        let worker = u64::from(worker.0);
        if bound == Bound::None || !is_over_bound(info, &load, config) {
            let detour = match (fallback, probe) {
                (Some(_), _) => Found::BOUNDED,
                (None, 0) => 0,
                (None, _) => Found::PROBED,
            };
            return Found(worker | detour);
        }
        fallback = fallback.or(Some(Found(worker)));
    }
    fallback.unwrap_or(Found::NOBODY)
}

/// Whether the worker has more in flight than its capacity, or than its weight's share of the bound.
#[inline(always)]
fn is_over_bound(info: &WorkerInfo, load: &WorkerLoad, config: &Config) -> bool {
    let in_flight = load.in_flight_now();
    let share = u64::from(config.home_bound) * u64::from(info.weight);
    in_flight >= info.cap_over(load.capacity)
        || config.home_bound != 0 && (u64::from(in_flight) << 8) > share
}
