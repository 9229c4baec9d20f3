//! Warm sets: which workers a function's requests are spread over.

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits::MAX_WARM,
};

use super::Inputs;
use crate::loads::Loads;

/// Load is compared in this many steps of a worker's capacity, so that a set with more candidates
/// than places does not change with every request.
const LOAD_STEPS: u64 = 4;

/// Up to [`MAX_WARM`] workers that keep `function` warm and take new work: the less loaded ones, in the order of their ids.
#[must_use]
pub fn warm_set(inputs: &Inputs<'_>, function: FunctionId) -> Vec<WorkerId> {
    let candidates = inputs.loads.warm_on(function).iter();
    let mut ids: Vec<WorkerId> = candidates
        .copied()
        .filter(|id| inputs.takes_new_work(*id))
        .collect();
    if ids.len() > MAX_WARM {
        ids.sort_unstable_by_key(|id| (load_step(inputs.loads, *id), *id));
        ids.truncate(MAX_WARM);
    }
    ids.sort_unstable();
    ids
}

/// Which quarter of its capacity a worker is in.
#[must_use]
pub fn load_step(loads: &Loads, worker: WorkerId) -> u64 {
    let Some(report) = loads.get(worker).and_then(|load| load.report) else {
        return 0;
    };
    u64::from(report.in_flight) * LOAD_STEPS / u64::from(report.capacity).max(1)
}
