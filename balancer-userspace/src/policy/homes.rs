//! The Maglev tables of all pools, made anew only when who takes new work changes, or its weight.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ebpf_common::{ids::WorkerId, limits::MAX_POOLS};

use super::{Rules, maglev};

/// A pool's table.
pub type Table = Arc<Vec<WorkerId>>;

/// The tables, and what they were made of.
#[derive(Debug, Clone)]
pub struct Homes {
    takers: BTreeMap<WorkerId, (String, u16)>,
    tables: Vec<Option<Table>>,
    stale: BTreeSet<u8>,
}

impl Default for Homes {
    /// Without workers; pool 0 is still to be made.
    fn default() -> Self {
        Self {
            takers: BTreeMap::new(),
            tables: vec![None; MAX_POOLS as usize],
            stale: BTreeSet::from([0]),
        }
    }
}

impl Homes {
    /// Says whether `worker` takes new work, and if so, its name and weight.
    pub fn set(&mut self, worker: WorkerId, taker: Option<(&str, u16)>, rules: &Rules) {
        let before = self.takers.get(&worker);
        if before.map(|(name, weight)| (name.as_str(), *weight)) == taker {
            return;
        }
        let names = before.map(|(name, _)| name.clone()).into_iter();
        for name in names.chain(taker.map(|(name, _)| name.to_owned())) {
            self.stale.extend(rules.pools_of(&name));
        }
        match taker {
            Some((name, weight)) => drop(self.takers.insert(worker, (name.to_owned(), weight))),
            None => drop(self.takers.remove(&worker)),
        }
    }

    /// The pools are others now.
    pub fn pools_changed(&mut self, before: &Rules, now: &Rules) {
        for (number, members) in &now.pools {
            if before.pools.get(number) != Some(members) {
                self.stale.insert(*number);
            }
        }
        for number in before.pools.keys() {
            if !now.pools.contains_key(number) {
                self.tables[usize::from(*number)] = None;
                self.stale.remove(number);
            }
        }
    }

    /// Makes the tables anew that are not up to date.
    pub fn refresh(&mut self, rules: &Rules) {
        for number in std::mem::take(&mut self.stale) {
            let members = rules.pools.get(&number);
            let is_member = |name: &String| members.is_none_or(|members| members.contains(name));
            let workers: Vec<maglev::Weighted<'_>> = self
                .takers
                .iter()
                .filter(|(_, (name, _))| is_member(name))
                .map(|(id, (name, weight))| maglev::Weighted {
                    name,
                    id: *id,
                    weight: *weight,
                })
                .collect();
            self.tables[usize::from(number)] = Some(Arc::new(maglev::weighted_table(&workers)));
        }
    }

    /// The tables by the number of their pool; none for a pool that there is not.
    #[must_use]
    pub fn tables(&self) -> &[Option<Table>] {
        &self.tables
    }

    /// The sum of the weights of all that take new work.
    #[must_use]
    pub fn total_weight(&self) -> u64 {
        self.takers
            .values()
            .map(|(_, weight)| u64::from(*weight))
            .sum()
    }

    /// Whether `worker` takes new work.
    #[must_use]
    pub fn takes(&self, worker: WorkerId) -> bool {
        self.takers.contains_key(&worker)
    }

    /// Who takes new work, and its weight.
    pub fn takers(&self) -> impl Iterator<Item = (WorkerId, u16)> + '_ {
        self.takers.iter().map(|(id, (_, weight))| (*id, *weight))
    }
}
