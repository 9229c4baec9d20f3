//! Which pool serves which function id: by id for requests, by name and digest for the rest.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use ebpf_common::ids::FunctionId;
use store::{CatalogEntry, Digest};

use super::{config::PoolLimits, function::FunctionPool, policy::greedy_dual::Clock};

/// All functions that were ever asked for and still matter.
#[derive(Debug)]
pub(super) struct Functions {
    maps: RwLock<Maps>,
    limits: PoolLimits,
    clock: Arc<Clock>,
}

#[derive(Debug, Default)]
struct Maps {
    by_id: HashMap<FunctionId, Arc<FunctionPool>>,
    /// Two functions with the same code do not share instances: their owners may differ.
    by_bundle: HashMap<(String, Digest), Arc<FunctionPool>>,
}

impl Functions {
    pub(super) fn new(limits: PoolLimits) -> Self {
        Self {
            maps: RwLock::default(),
            limits,
            clock: Arc::default(),
        }
    }

    /// The clock of evictions.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The pool of the bundle that `entry` names; made if this is its first request.
    pub(super) fn of(&self, entry: &Arc<CatalogEntry>) -> Arc<FunctionPool> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = maps.by_id.get(&entry.id)
            && pool.entry.digest == entry.digest
        {
            return Arc::clone(pool);
        }
        drop(maps);
        self.point(entry)
    }

    /// Has the id of `entry` lead to its bundle: it is new, or an alias that moved.
    fn point(&self, entry: &Arc<CatalogEntry>) -> Arc<FunctionPool> {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        let key = (entry.name.clone(), entry.digest.clone());
        let make = || FunctionPool::new(Arc::clone(entry), &self.limits, Arc::clone(&self.clock));
        let pool = Arc::clone(maps.by_bundle.entry(key).or_insert_with(make));
        if let Some(before) = maps.by_id.insert(entry.id, Arc::clone(&pool)) {
            before.remove_id(entry.id);
        }
        pool.add_id(entry.id);
        pool
    }

    /// All pools.
    pub(super) fn all(&self) -> Vec<Arc<FunctionPool>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_bundle.values().cloned().collect()
    }

    /// The ids of all functions with an instance, sorted.
    pub(super) fn warm(&self) -> Vec<FunctionId> {
        let warm = self.all().into_iter().filter(|pool| pool.is_warm());
        let ids: BTreeSet<FunctionId> = warm.flat_map(|pool| pool.ids()).collect();
        ids.into_iter().collect()
    }

    /// Forgets pools that no id leads to and that have nothing left.
    pub(super) fn tidy(&self) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_bundle.retain(|_, pool| {
            let demand = pool.standing().demand;
            !pool.ids().is_empty() || demand.live + demand.starting + demand.wanted > 0
        });
    }
}
