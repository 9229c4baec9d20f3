//! What can be asked of the triggers that are pulled here.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use warmpath_sdk::trigger::{TriggerKind, TriggerReport};

use super::wanted::TriggerId;

/// How each of them is doing.
#[derive(Debug, Default)]
pub struct Board {
    reports: Mutex<BTreeMap<TriggerId, TriggerReport>>,
}

impl Board {
    /// How a trigger is doing, if it is pulled here.
    #[must_use]
    pub fn report(&self, function: &str, trigger: &str) -> Option<TriggerReport> {
        let id = (function.to_owned(), trigger.to_owned());
        self.reports().get(&id).cloned()
    }

    /// How many of a kind there are.
    #[must_use]
    pub fn count(&self, kind: TriggerKind) -> usize {
        let reports = self.reports();
        reports
            .values()
            .filter(|report| report.kind == kind)
            .count()
    }

    /// The most records that a feed trigger has still to look at.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.reports()
            .values()
            .map(|report| report.lag)
            .max()
            .unwrap_or(0)
    }

    pub(super) fn show(&self, report: &TriggerReport) {
        let id = (report.function.clone(), report.trigger.clone());
        self.reports().insert(id, report.clone());
    }

    pub(super) fn remove(&self, id: &TriggerId) {
        self.reports().remove(id);
    }

    fn reports(&self) -> MutexGuard<'_, BTreeMap<TriggerId, TriggerReport>> {
        // The map is whole between any two statements that could panic.
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
