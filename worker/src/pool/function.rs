//! One function's share of the pool: its roster behind a lock, and the way from a request to an instance.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use ebpf_common::{ids::FunctionId, wire::Status};
use store::CatalogEntry;
use tokio::time::Instant;

use super::{
    instance::Instance,
    policy::{Demand, is_cold, wants_instance},
    roster::{Places, Roster, Seat},
};
use crate::bill::{Account, Ledger, Subject};

/// Why a request gets no instance, as it is told to the caller.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: Status,
    pub(super) message: String,
}

/// The instances of one bundle under one name: a new version of a function has a pool of its own.
#[derive(Debug)]
pub(super) struct FunctionPool {
    /// The function as it was called first; limits and code are the same under all its ids.
    pub(super) entry: Arc<CatalogEntry>,
    roster: Mutex<Roster<Instance, Refusal>>,
    /// The ids that name this bundle now: `hello@latest` and `hello@3`, say.
    ids: Mutex<Vec<FunctionId>>,
    instances_max: usize,
    account: OnceLock<Arc<Account>>,
    /// Instances that live, for readers that must not wait for the roster.
    live: AtomicU64,
}

impl FunctionPool {
    pub(super) fn new(
        entry: Arc<CatalogEntry>,
        instances_max: usize,
        sessions_max: usize,
    ) -> Arc<Self> {
        let places = entry.manifest.concurrency as usize;
        Arc::new(Self {
            entry,
            roster: Mutex::new(Roster::new(sessions_max, places)),
            ids: Mutex::default(),
            instances_max,
            account: OnceLock::new(),
            live: AtomicU64::new(0),
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

    /// A request arrives: an idle instance, or a place in a queue; and whether one must be started for it
    /// at once.
    pub(super) fn seat(&self, session: Option<u64>) -> (Seat<Instance, Refusal>, bool) {
        let mut roster = self.roster();
        let seat = roster.seat(session);
        let starts = matches!(seat, Seat::Waits(_)) && is_cold(roster.demand());
        if starts {
            roster.starts();
        }
        (seat, starts)
    }

    /// A request has waited for a while: whether an instance is to be started for it.
    pub(super) fn is_short(&self) -> bool {
        let mut roster = self.roster();
        let starts = wants_instance(roster.demand(), self.instances_max);
        if starts {
            roster.starts();
        }
        starts
    }

    /// An instance has served a request and can serve another.
    pub(super) fn release(&self, mut instance: Instance) {
        instance.idle_since = Instant::now();
        let mut roster = self.roster();
        if instance.is_over() {
            // Another of its requests ended it: whoever did took its free places out before this one came.
            drop(roster);
            drop(instance);
        } else {
            roster.release(instance);
        }
    }

    /// Ends an instance that served a request, with all its places.
    pub(super) fn discard(&self, instance: Instance) {
        let number = instance.number();
        // In this order: what is released from now on sees that it is over.
        drop(instance);
        drop(self.take_free(number));
    }

    /// An instance was started, or could not be. True when it is the first of this function.
    pub(super) fn started(&self, instance: Result<Instance, Refusal>) -> bool {
        if let Ok(instance) = &instance {
            instance.set_counted();
        }
        let first = instance.is_ok() && self.live.fetch_add(1, Ordering::Relaxed) == 0;
        self.roster().started(instance);
        first
    }

    /// An instance is not started after all.
    pub(super) fn cancelled(&self) {
        self.roster().cancelled();
    }

    /// An instance has ended. The first is true when it was the last of this function, the second when
    /// another one is to be started for those who wait.
    pub(super) fn lost(&self, number: u64) -> (bool, bool) {
        let last = self.live.fetch_sub(1, Ordering::Relaxed) == 1;
        let mut roster = self.roster();
        roster.lost(number);
        let demand = roster.demand();
        let starts = wants_instance(demand, self.instances_max);
        if starts {
            roster.starts();
        }
        (last, starts)
    }

    /// Takes an idle instance out, to be dropped.
    pub(super) fn take_idle(&self, number: u64) -> Option<Instance> {
        self.roster().take_idle(number)
    }

    /// Takes all free places of an instance out, to be dropped.
    pub(super) fn take_free(&self, number: u64) -> Option<Instance> {
        self.roster().take_free(number)
    }

    /// Takes out all instances that have been idle since before `since`; `None`: all idle ones.
    pub(super) fn take_idle_before(&self, since: Option<Instant>) -> Vec<Instance> {
        self.roster()
            .take_idle_if(|instance| since.is_none_or(|since| instance.idle_since <= since))
    }

    /// The instance idle for longest, and since when.
    pub(super) fn oldest_idle(&self) -> Option<(u64, Instant)> {
        self.roster()
            .idle()
            .first()
            .map(|instance| (instance.number(), instance.idle_since))
    }

    /// Sends away everyone who waits.
    pub(super) fn dismiss(&self) {
        self.roster().dismiss();
    }

    /// The roster's numbers, and how many of the live are busy.
    pub(super) fn demand(&self) -> (Demand, usize) {
        let mut roster = self.roster();
        let demand = roster.demand();
        (demand, roster.busy_len())
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

    fn roster(&self) -> MutexGuard<'_, Roster<Instance, Refusal>> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
