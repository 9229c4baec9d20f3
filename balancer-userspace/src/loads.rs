//! How busy each worker is and what it keeps warm, as its last heartbeat said.

use std::collections::BTreeMap;

use ebpf_common::ids::{FunctionId, WorkerId};

use crate::membership::protocol::Heartbeat;

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
    /// Functions it has a warm sandbox of, ascending.
    pub warm: Vec<FunctionId>,
}

/// What a heartbeat changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadChange {
    /// How busy the worker is.
    pub report: bool,
    /// Its warm functions.
    pub warm: bool,
}

/// The reports of all workers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loads(BTreeMap<WorkerId, Load>);

impl Loads {
    /// The report of `worker`, if there is one.
    #[must_use]
    pub fn get(&self, worker: WorkerId) -> Option<&Load> {
        self.0.get(&worker)
    }

    /// Every report, by worker id.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerId, &Load)> {
        self.0.iter().map(|(id, load)| (*id, load))
    }

    /// Takes in a heartbeat of `worker`.
    pub fn record(&mut self, worker: WorkerId, heartbeat: &Heartbeat) -> LoadChange {
        let load = self.0.entry(worker).or_default();
        let report = Report {
            in_flight: heartbeat.in_flight,
            capacity: heartbeat.capacity,
        };
        let mut warm = heartbeat.warm.clone();
        warm.sort_unstable();
        warm.dedup();
        let change = LoadChange {
            report: load.report != Some(report),
            warm: load.warm != warm,
        };
        load.report = Some(report);
        load.warm = warm;
        change
    }

    /// What the data plane already holds says that `worker` keeps `function` warm.
    pub fn restore_warm(&mut self, worker: WorkerId, function: FunctionId) {
        let warm = &mut self.0.entry(worker).or_default().warm;
        if let Err(place) = warm.binary_search(&function) {
            warm.insert(place, function);
        }
    }

    /// The worker is gone: it keeps nothing warm.
    pub fn forget(&mut self, worker: WorkerId) {
        self.0.remove(&worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_that_repeats_the_last_changes_nothing() {
        let mut loads = Loads::default();
        let mut heartbeat = Heartbeat {
            in_flight: 1,
            capacity: 8,
            warm: vec![FunctionId(2), FunctionId(1), FunctionId(2)],
            draining: false,
        };
        let both = LoadChange {
            report: true,
            warm: true,
        };
        assert_eq!(loads.record(WorkerId(0), &heartbeat), both);
        assert_eq!(loads.record(WorkerId(0), &heartbeat), LoadChange::default());
        heartbeat.in_flight = 2;
        heartbeat.warm.reverse();
        let report_only = LoadChange {
            report: true,
            warm: false,
        };
        assert_eq!(loads.record(WorkerId(0), &heartbeat), report_only);
    }
}
