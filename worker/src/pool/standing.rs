//! How the instances of each function stand, as the worker tells it to people.

use serde::{Deserialize, Serialize};

use super::{
    PoolSnapshot,
    function::{FunctionPool, Standing},
};
use crate::cpu_latency::CpuLatencyStanding;

/// A pool: `GET /v1/pool`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolStanding {
    /// The worker's name.
    pub worker: String,
    /// The system that sandboxes have: `host`, digits of its digest, or its path.
    pub rootfs: String,
    /// How long waking an idle processor may take.
    pub cpu_latency: CpuLatencyStanding,
    /// What the memory limits of all instances may sum up to.
    pub memory_limit_mb: u64,
    /// The whole.
    pub numbers: PoolSnapshot,
    /// By function, sorted by name.
    pub functions: Vec<FunctionStanding>,
}

/// One function of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStanding {
    /// Its qualified name.
    pub function: String,
    /// Instances being started.
    pub starting: usize,
    /// Instances that idle and run.
    pub warm: usize,
    /// Instances that idle and are paused.
    pub paused: usize,
    /// Instances that serve a request.
    pub busy: usize,
    /// Requests that wait for an instance, in instances that they would fill.
    pub wanted: usize,
    /// Sum of the memory limits of its instances.
    pub memory_mb: u64,
    /// How many are kept whether or not anyone calls.
    pub min_warm: usize,
    /// How long an idle instance is kept, by the function's history.
    pub keep_alive_ms: u64,
    /// When one is started again after the last request, where the history allows a forecast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prewarm_after_ms: Option<u64>,
    /// About what a cold start takes; 0 before the first.
    pub cold_start_us: u64,
}

impl FunctionStanding {
    pub(super) fn of(function: &FunctionPool) -> Self {
        let Standing {
            demand,
            busy,
            paused,
        } = function.standing();
        let stay = function.stay();
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            function: function.entry.qualified.clone(),
            starting: demand.starting,
            warm: demand.live - busy - paused,
            paused,
            busy,
            wanted: demand.wanted,
            memory_mb: demand.live as u64 * u64::from(function.entry.manifest.memory_mb),
            min_warm: function.min_warm(),
            keep_alive_ms: ms(stay.used),
            prewarm_after_ms: stay.prewarm.map(|prewarm| ms(prewarm.after)),
            cold_start_us: function.cold_start_us(),
        }
    }
}
