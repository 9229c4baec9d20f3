//! One function's share of the pool: its roster and its history behind a lock, and the way from a request to
//! an instance.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ebpf_common::{ids::FunctionId, wire::Status};
use store::CatalogEntry;
use tokio::time::Instant;

use super::{
    config::PoolLimits,
    instance::Instance,
    policy::{
        Demand,
        greedy_dual::{Candidate, Clock, Worth},
        history::{Bounds, History, Stay},
        is_cold, wants_instance,
    },
    roster::{Places, Roster, Seat},
};
use crate::{
    bill::{Account, Ledger, Subject},
    profile::Slot,
};

/// An instance that was to be kept warm and could not be started is tried again after so long.
const WARMTH_RETRY: Duration = Duration::from_secs(5);

/// Why a request gets no instance, as it is told to the caller.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) message: String,
}

/// Why an instance is started that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Warmth {
    /// So many are to be kept.
    Promised,
    /// The history says that a request is about to come.
    Forecast,
}

/// How a function's instances stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) demand: Demand,
    pub(super) busy: usize,
    pub(super) paused: usize,
}

/// The instances of one bundle under one name: a new version of a function has a pool of its own.
#[derive(Debug)]
pub(super) struct FunctionPool {
    /// The function as it was called first; limits and code are the same under all its ids.
    pub(super) entry: Arc<CatalogEntry>,
    /// Its profile, while one is taken.
    pub(super) profile: Slot,
    state: Mutex<State>,
    /// The ids that name this bundle now: `hello@latest` and `hello@3`, say.
    ids: Mutex<Vec<FunctionId>>,
    instances_max: usize,
    account: OnceLock<Arc<Account>>,
    bounds: Bounds,
    clock: Arc<Clock>,
    /// Instances that live, for readers that must not wait for the roster.
    live: AtomicU64,
    /// Instances that this worker keeps whether or not anyone calls.
    min_warm: AtomicUsize,
}

#[derive(Debug)]
struct State {
    roster: Roster<Instance, Refusal>,
    history: History,
    /// Requests since it had no instance.
    frequency: u64,
    /// About what a cold start takes.
    cold_start_us: u64,
    /// When an instance that nobody asked for could not be started.
    failed_at: Option<Instant>,
}

impl FunctionPool {
    pub(super) fn new(
        entry: Arc<CatalogEntry>,
        limits: &PoolLimits,
        clock: Arc<Clock>,
    ) -> Arc<Self> {
        let places = entry.manifest.concurrency as usize;
        let own_max = entry
            .manifest
            .max_instances
            .map_or(usize::MAX, |n| n as usize);
        Arc::new(Self {
            instances_max: limits.instances_per_function.min(own_max),
            entry,
            profile: Slot::default(),
            state: Mutex::new(State {
                roster: Roster::new(limits.sessions_per_function, places),
                history: History::default(),
                frequency: 0,
                cold_start_us: 0,
                failed_at: None,
            }),
            ids: Mutex::default(),
            account: OnceLock::new(),
            bounds: limits.stay_bounds(),
            clock,
            live: AtomicU64::new(0),
            min_warm: AtomicUsize::new(0),
        })
    }

    /// Where its bills are added up.
    pub(super) fn account(&self, ledger: &Ledger) -> &Arc<Account> {
        self.account.get_or_init(|| {
            ledger.account(Subject {
                function: self.entry.name.clone(),
                version: self.entry.version,
                memory_mb: self.entry.manifest.memory_mb,
            })
        })
    }

    /// A request arrives: a free place, or one in a queue; and whether an instance must be started for it at
    /// once.
    pub(super) fn seat(
        &self,
        session: Option<u64>,
        now: Instant,
    ) -> (Seat<Instance, Refusal>, bool) {
        let mut state = self.state();
        state.frequency += 1;
        state.history.wakes(now);
        let roster = &mut state.roster;
        let seat = roster.seat(session);
        let starts = matches!(seat, Seat::Waits(_)) && is_cold(roster.demand());
        if starts {
            roster.starts();
        }
        (seat, starts)
    }

    /// A request has waited for a while: whether an instance is to be started for it.
    pub(super) fn is_short(&self) -> bool {
        let roster = &mut self.state().roster;
        let starts = wants_instance(roster.demand(), self.instances_max);
        if starts {
            roster.starts();
        }
        starts
    }

    /// Whether an instance is to be started that nobody asked for: fewer live than are to be kept, or the
    /// history says that a request is about to come.
    pub(super) fn lacks_warmth(&self, now: Instant) -> Option<Warmth> {
        let mut state = self.state();
        let have = {
            let demand = state.roster.demand();
            demand.live + demand.starting
        };
        let is_too_early = |at: Instant| now < at + WARMTH_RETRY;
        if have >= self.instances_max || state.failed_at.is_some_and(is_too_early) {
            return None;
        }
        let warmth = if have < self.min_warm.load(Ordering::Relaxed) {
            Warmth::Promised
        } else if have == 0 && self.is_forecast(&state.history, now) {
            Warmth::Forecast
        } else {
            return None;
        };
        state.roster.starts();
        Some(warmth)
    }

    /// Whether fewer than `count` live or are being started, and one more may be: it counts as being started from now on.
    pub(super) fn lacks(&self, count: usize) -> bool {
        let roster = &mut self.state().roster;
        let demand = roster.demand();
        let lacks = demand.live + demand.starting < count.min(self.instances_max);
        if lacks {
            roster.starts();
        }
        lacks
    }

    fn is_forecast(&self, history: &History, now: Instant) -> bool {
        let (Some(since), Some(prewarm)) =
            (history.idle_since(), history.stay(self.bounds).prewarm)
        else {
            return false;
        };
        let from = since + prewarm.after;
        from <= now && now < from + prewarm.keep
    }

    /// An instance has served a request and can serve another.
    pub(super) fn release(&self, mut instance: Instance) {
        let now = Instant::now();
        instance.idle_since = now;
        instance.used_at = self.clock.now();
        let mut state = self.put_back(instance);
        if state.roster.busy_len() == 0 {
            state.history.rests(now);
        }
    }

    /// An instance was paused, or could not be.
    pub(super) fn paused(&self, instance: Instance) {
        drop(self.put_back(instance));
    }

    fn put_back(&self, instance: Instance) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if instance.is_over() {
            // Another of its requests ended it: whoever did took its free places out before this one came.
            drop(state);
            drop(instance);
            return self.state();
        }
        state.roster.release(instance);
        state
    }

    /// Ends an instance that served a request, with all its places.
    pub(super) fn discard(&self, instance: Instance) {
        let number = instance.number();
        // In this order: what is released from now on sees that it is over.
        drop(instance);
        drop(self.take_free(number));
    }

    /// An instance was started, in that time, or could not be. True when it is the first of this function.
    pub(super) fn started(&self, instance: Result<Instance, Refusal>, took: Duration) -> bool {
        let first = instance.is_ok() && self.live.fetch_add(1, Ordering::Relaxed) == 0;
        let mut state = self.state();
        match &instance {
            Ok(instance) => {
                instance.set_counted();
                let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                let before = state.cold_start_us;
                let is_first = before == 0;
                state.cold_start_us = if is_first {
                    took_us
                } else {
                    (3 * before + took_us) / 4
                };
                state.failed_at = None;
            }
            Err(_) => state.failed_at = Some(Instant::now()),
        }
        state.roster.started(instance);
        first
    }

    /// An instance is not started after all.
    pub(super) fn cancelled(&self) {
        self.state().roster.cancelled();
    }

    /// An instance has ended. The first is true when it was the last of this function, the second when
    /// another one is to be started for those who wait.
    pub(super) fn lost(&self, number: u64) -> (bool, bool) {
        let last = self.live.fetch_sub(1, Ordering::Relaxed) == 1;
        let mut state = self.state();
        if last {
            state.frequency = 0;
        }
        let roster = &mut state.roster;
        roster.lost(number);
        let starts = wants_instance(roster.demand(), self.instances_max);
        if starts {
            roster.starts();
        }
        (last, starts)
    }

    /// Takes an idle instance out, to be dropped.
    pub(super) fn take_idle(&self, number: u64) -> Option<Instance> {
        self.state().roster.take_idle(number)
    }

    /// Takes all free places of an instance out, to be dropped.
    pub(super) fn take_free(&self, number: u64) -> Option<Instance> {
        self.state().roster.take_free(number)
    }

    /// Takes out all idle instances, to be dropped.
    pub(super) fn take_all_idle(&self) -> Vec<Instance> {
        self.state().roster.take_idle_if(|_| true)
    }

    /// Takes out the instances that have been idle for longer than the history says they should be, but for
    /// those that are to be kept; and those whose secrets are no more.
    pub(super) fn take_expired(&self, now: Instant) -> Vec<Instance> {
        let min_warm = self.min_warm.load(Ordering::Relaxed);
        let mut state = self.state();
        let stay = state.history.stay(self.bounds);
        let unused = stay.prewarm.map_or(stay.used, |prewarm| prewarm.keep);
        let mut spare = state.roster.demand().live.saturating_sub(min_warm);
        state.roster.take_idle_if(|instance| {
            let keep = if instance.is_fresh() {
                unused
            } else {
                stay.used
            };
            let expired = spare > 0 && now.saturating_duration_since(instance.idle_since) >= keep;
            // Another one is started in its place, if it is one of those that are to be kept.
            let ends = expired || !instance.is_current();
            spare = spare.saturating_sub(usize::from(ends));
            ends
        })
    }

    /// Takes out the instances that run and have been idle since before `since`, to be paused and put back.
    pub(super) fn take_to_pause(&self, since: Instant) -> Vec<Instance> {
        let roster = &mut self.state().roster;
        roster.take_to_pause(|instance| instance.idle_since <= since)
    }

    /// The instances that may be ended to make room for others.
    pub(super) fn candidates(&self) -> Vec<(u64, Candidate)> {
        let min_warm = self.min_warm.load(Ordering::Relaxed);
        let mut state = self.state();
        let spare = state.roster.demand().live.saturating_sub(min_warm);
        let worth = Worth {
            frequency: state.frequency,
            cold_start_us: state.cold_start_us,
            memory_mb: self.entry.manifest.memory_mb,
        };
        let candidate = |instance: &Instance| {
            let candidate = Candidate {
                used_at: instance.used_at,
                worth,
                idle_since: instance.idle_since,
            };
            (instance.number(), candidate)
        };
        if spare == 0 {
            return Vec::new();
        }
        state.roster.idle().map(candidate).collect()
    }

    /// Sends away everyone who waits.
    pub(super) fn dismiss(&self) {
        self.state().roster.dismiss();
    }

    /// How its instances stand.
    pub(super) fn standing(&self) -> Standing {
        let roster = &mut self.state().roster;
        Standing {
            demand: roster.demand(),
            busy: roster.busy_len(),
            paused: roster.paused_len(),
        }
    }

    /// How long its instances stay, by its history.
    pub(super) fn stay(&self) -> Stay {
        self.state().history.stay(self.bounds)
    }

    /// About what a cold start takes; zero before the first.
    pub(super) fn cold_start_us(&self) -> u64 {
        self.state().cold_start_us
    }

    /// How many instances this worker keeps, whether or not anyone calls.
    pub(super) fn min_warm(&self) -> usize {
        self.min_warm.load(Ordering::Relaxed)
    }

    /// Keeps `count` instances from now on.
    pub(super) fn keep_warm(&self, count: usize) {
        self.min_warm.store(count, Ordering::Relaxed);
    }

    /// Whether it has an instance.
    pub(super) fn is_warm(&self) -> bool {
        self.live.load(Ordering::Relaxed) > 0
    }

    /// `id` names this bundle from now on.
    pub(super) fn add_id(&self, id: FunctionId) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if !ids.contains(&id) {
            ids.push(id);
        }
    }

    /// `id` names another bundle from now on.
    pub(super) fn remove_id(&self, id: FunctionId) {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| *other != id);
    }

    /// The ids that name this bundle.
    pub(super) fn ids(&self) -> Vec<FunctionId> {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
