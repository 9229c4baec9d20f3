//! How busy each worker is and what it keeps warm, as its last heartbeat said.

use std::collections::BTreeMap;

use ebpf_common::ids::{FunctionId, WorkerId};

use crate::{
    id_map::IdMap,
    membership::protocol::{Heartbeat, Kept},
};

/// How busy a worker said it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests received and not answered.
    pub in_flight: u32,
    /// Requests it takes at a time.
    pub capacity: u32,
}

/// What is known of one worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// None until the worker has said so to *this* control plane: after a restart what the data plane holds stays
    /// until then.
    pub report: Option<Report>,
    /// What its last heartbeat said, where `report` may be the data plane's word.
    pub said: Option<Report>,
    /// Functions it has a warm sandbox of, ascending.
    pub warm: Vec<FunctionId>,
    /// How many instances live of those that it was asked to tell of.
    pub kept: Vec<Kept>,
}

/// What a heartbeat changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadChange {
    /// Whether the worker is busier or less busy.
    pub report: bool,
    /// Functions that it keeps warm now and did not before, or the other way round.
    pub warm: Vec<FunctionId>,
    /// Whether other numbers live of what it was asked to tell of.
    pub kept: bool,
}

/// The reports of all workers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loads {
    by_worker: BTreeMap<WorkerId, Load>,
    by_function: IdMap<Vec<WorkerId>>,
}

impl Loads {
    /// The report of `worker`, if there is one.
    #[must_use]
    pub fn get(&self, worker: WorkerId) -> Option<&Load> {
        self.by_worker.get(&worker)
    }

    /// Every report, by worker id.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerId, &Load)> {
        self.by_worker.iter().map(|(id, load)| (*id, load))
    }

    /// Takes in a heartbeat of `worker`.
    pub fn record(&mut self, worker: WorkerId, heartbeat: &Heartbeat) -> LoadChange {
        let load = self.by_worker.entry(worker).or_default();
        let report = Report {
            in_flight: heartbeat.in_flight,
            capacity: heartbeat.capacity,
        };
        let mut warm = heartbeat.warm.clone();
        warm.sort_unstable();
        warm.dedup();
        let mut change = LoadChange {
            report: load.report != Some(report),
            warm: Vec::new(),
            kept: load.kept != heartbeat.kept,
        };
        load.report = Some(report);
        load.said = Some(report);
        if change.kept {
            load.kept.clone_from(&heartbeat.kept);
        }
        if load.warm != warm {
            let before = std::mem::replace(&mut load.warm, warm.clone());
            for gone in before.iter().filter(|id| warm.binary_search(id).is_err()) {
                self.not_warm(worker, *gone);
                change.warm.push(*gone);
            }
            for new in warm.iter().filter(|id| before.binary_search(id).is_err()) {
                self.by_function.entry(*new).or_default().push(worker);
                change.warm.push(*new);
            }
        }
        change
    }

    /// What the data plane already holds says that `worker` keeps `function` warm.
    pub fn restore_warm(&mut self, worker: WorkerId, function: FunctionId) {
        let warm = &mut self.by_worker.entry(worker).or_default().warm;
        if let Err(place) = warm.binary_search(&function) {
            warm.insert(place, function);
            self.by_function.entry(function).or_default().push(worker);
        }
    }

    /// The worker is gone: it keeps nothing warm. Returns what it kept.
    pub fn forget(&mut self, worker: WorkerId) -> Vec<FunctionId> {
        let warm = self.by_worker.remove(&worker).unwrap_or_default().warm;
        for function in &warm {
            self.not_warm(worker, *function);
        }
        warm
    }

    /// Whatever `worker` says next is news: it connected anew.
    pub fn forget_report(&mut self, worker: WorkerId) {
        if let Some(load) = self.by_worker.get_mut(&worker) {
            load.report = None;
            load.said = None;
        }
    }

    /// Functions that are warm somewhere.
    pub fn functions(&self) -> impl Iterator<Item = FunctionId> + '_ {
        self.by_function.keys().copied()
    }

    /// Takes in what the data plane says of a worker that sends LOAD packets. Returns whether that is news.
    pub fn observe(&mut self, worker: WorkerId, report: Report) -> bool {
        let load = self.by_worker.entry(worker).or_default();
        load.report.replace(report) != Some(report)
    }

    /// What `worker` keeps warm.
    #[must_use]
    pub fn warm_of(&self, worker: WorkerId) -> &[FunctionId] {
        self.get(worker).map_or(&[], |load| &load.warm)
    }

    /// How many instances of `function` live on `worker`, as far as it was asked and has told.
    #[must_use]
    pub fn live(&self, worker: WorkerId, function: FunctionId) -> u32 {
        let kept = self.get(worker).map_or(&[][..], |load| &load.kept);
        let kept = kept.iter().find(|kept| kept.function == function);
        kept.map_or(0, |kept| kept.live)
    }

    /// Whether `worker` has the code of `function`, as far as it was asked and has told.
    #[must_use]
    pub fn has_code(&self, worker: WorkerId, function: FunctionId) -> bool {
        let kept = self.get(worker).map_or(&[][..], |load| &load.kept);
        kept.iter()
            .any(|kept| kept.function == function && kept.code)
    }

    /// Who keeps `function` warm, in no order.
    #[must_use]
    pub fn warm_on(&self, function: FunctionId) -> &[WorkerId] {
        self.by_function.get(&function).map_or(&[], Vec::as_slice)
    }

    fn not_warm(&mut self, worker: WorkerId, function: FunctionId) {
        if let Some(workers) = self.by_function.get_mut(&function) {
            workers.retain(|id| *id != worker);
            if workers.is_empty() {
                self.by_function.remove(&function);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_what_was_told_last() {
        let mut loads = Loads::default();
        let (worker, function) = (WorkerId(3), FunctionId(7));
        let told = |live: Option<u32>| Heartbeat {
            kept: live
                .map(|live| Kept {
                    function,
                    live,
                    code: live == 1,
                })
                .into_iter()
                .collect(),
            ..Heartbeat::default()
        };
        assert_eq!(loads.live(worker, function), 0);
        for live in [Some(2), Some(1), None] {
            loads.record(worker, &told(live));
            assert_eq!(loads.live(worker, function), live.unwrap_or(0));
            assert_eq!(loads.has_code(worker, function), live == Some(1));
        }
        loads.record(worker, &told(Some(2)));
        loads.forget(worker);
        assert_eq!(loads.live(worker, function), 0);
    }

    #[test]
    fn a_heartbeat_that_repeats_the_last_changes_nothing() {
        let mut loads = Loads::default();
        let mut heartbeat = Heartbeat {
            in_flight: 1,
            capacity: 8,
            warm: vec![FunctionId(2), FunctionId(1), FunctionId(2)],
            draining: false,
            kept: Vec::new(),
        };
        let both = LoadChange {
            report: true,
            warm: vec![FunctionId(1), FunctionId(2)],
            kept: false,
        };
        assert_eq!(loads.record(WorkerId(0), &heartbeat), both);
        assert_eq!(loads.record(WorkerId(0), &heartbeat), LoadChange::default());
        heartbeat.in_flight = 2;
        heartbeat.warm.reverse();
        let report_only = LoadChange {
            report: true,
            warm: Vec::new(),
            kept: false,
        };
        assert_eq!(loads.record(WorkerId(0), &heartbeat), report_only);
        assert_eq!(loads.warm_on(FunctionId(1)), [WorkerId(0)]);
        heartbeat.warm = vec![FunctionId(2), FunctionId(3)];
        let change = loads.record(WorkerId(0), &heartbeat);
        assert_eq!(change.warm, [FunctionId(1), FunctionId(3)]);
        assert_eq!(loads.warm_on(FunctionId(1)), []);
        assert_eq!(loads.forget(WorkerId(0)), heartbeat.warm);
        assert_eq!(loads, Loads::default());
    }
}
