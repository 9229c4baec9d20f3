//! The bills of a worker as its admin API gives them out.

use serde::{Deserialize, Serialize};

use super::Line;

/// What a worker has billed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BillReport {
    /// The worker.
    pub worker: String,
    /// The time that the lines cover.
    pub seconds: u64,
    /// By function, version and caller.
    pub lines: Vec<BillLine>,
    /// What no request was charged, since the worker's start.
    pub unbilled: Vec<UnbilledLine>,
}

/// The sum for one caller of one version of one function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BillLine {
    /// The function; `other` for those that find no room.
    pub function: String,
    /// Its version.
    pub version: u32,
    /// Its memory limit.
    pub memory_mb: u32,
    /// Who called; `other` for those that find no room.
    pub caller: String,
    /// All its bills.
    pub sum: Line,
}

/// CPU time of a function's instances that no request was charged: what an instance used after its last
/// reply, its end, and starts that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnbilledLine {
    /// The function.
    pub function: String,
    /// Its version.
    pub version: u32,
    /// CPU time.
    pub cpu_ns: u64,
}
