//! Warm sets: which workers a function's requests are spread over.

use std::collections::BTreeMap;

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits::MAX_WARM,
    maps::WorkerInfo,
};

use crate::loads::Loads;

/// Load is compared in this many steps of a worker's capacity, so that a set with more candidates
/// than places does not change with every request.
const LOAD_STEPS: u64 = 4;

/// For each function that is warm somewhere, up to [`MAX_WARM`] workers that take new work: the less
/// loaded ones, in the order of their ids.
#[must_use]
pub fn warm_sets(
    workers: &BTreeMap<WorkerId, WorkerInfo>,
    loads: &Loads,
) -> BTreeMap<FunctionId, Vec<WorkerId>> {
    let mut candidates: BTreeMap<FunctionId, Vec<(u64, WorkerId)>> = BTreeMap::new();
    for (worker, load) in loads.iter() {
        if workers.get(&worker).is_some_and(WorkerInfo::takes_new_work) {
            let step = load_step(loads, worker);
            for function in &load.warm {
                candidates
                    .entry(*function)
                    .or_default()
                    .push((step, worker));
            }
        }
    }
    candidates
        .into_iter()
        .map(|(function, mut workers)| {
            workers.sort_unstable();
            workers.truncate(MAX_WARM);
            let mut ids: Vec<WorkerId> = workers.into_iter().map(|(_, id)| id).collect();
            ids.sort_unstable();
            (function, ids)
        })
        .collect()
}

/// Which quarter of its capacity a worker is in.
#[must_use]
pub fn load_step(loads: &Loads, worker: WorkerId) -> u64 {
    let Some(report) = loads.get(worker).and_then(|load| load.report) else {
        return 0;
    };
    u64::from(report.in_flight) * LOAD_STEPS / u64::from(report.capacity).max(1)
}
