//! What has to be looked at again. It stays here until the writes that it led to are done, so that a plan may be dropped at
//! any point.

use std::collections::{BTreeSet, VecDeque};

use ebpf_common::ids::{FunctionId, WorkerId};

use crate::id_map::IdSet;

/// Workers whose rows may be out of date, and which parts of the tables beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dirty {
    /// Rows of `WORKERS`.
    pub(super) workers: BTreeSet<WorkerId>,
    /// Every row of `WORKERS`.
    pub(super) all_workers: bool,
    /// Who holds which slots.
    pub(super) slots: bool,
    /// VIPs, settings and police.
    pub(super) rules: bool,
    /// Something else: interfaces, or a write that the kernel refused.
    pub(super) rest: bool,
}

impl Dirty {
    /// Everything.
    pub(super) fn everything() -> Self {
        Self {
            workers: BTreeSet::new(),
            all_workers: true,
            slots: true,
            rules: true,
            rest: true,
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// What either of the two has.
    pub(super) fn merge(&mut self, other: Self) {
        self.workers.extend(other.workers);
        self.all_workers |= other.all_workers;
        self.slots |= other.slots;
        self.rules |= other.rules;
        self.rest |= other.rest;
    }
}

/// Functions whose rows may be out of date, each once, in the order in which they became so.
#[derive(Debug, Clone, Default)]
pub(super) struct DirtyFunctions {
    queue: VecDeque<FunctionId>,
    members: IdSet,
}

impl DirtyFunctions {
    pub(super) fn push(&mut self, function: FunctionId) {
        if self.members.insert(function) {
            self.queue.push_back(function);
        }
    }

    pub(super) fn pop(&mut self) -> Option<FunctionId> {
        let function = self.queue.pop_front()?;
        self.members.remove(&function);
        if self.queue.is_empty() {
            // After a first load of a million this is memory that is not needed again.
            *self = Self::default();
        }
        Some(function)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

impl Extend<FunctionId> for DirtyFunctions {
    fn extend<I: IntoIterator<Item = FunctionId>>(&mut self, functions: I) {
        functions
            .into_iter()
            .for_each(|function| self.push(function));
    }
}
