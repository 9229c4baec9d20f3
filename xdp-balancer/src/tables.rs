//! What the pipeline asks of the BPF maps.

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    maps::{
        Config, Counter, FunctionEntry, SessionEntry, SessionKey, VipInfo, VipKey, WorkerInfo,
        WorkerLoad,
    },
};

/// Why a session's entry was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionError {
    /// Another CPU placed the session a moment ago.
    Exists,
    /// The table took no entry.
    Refused,
}

/// The BPF maps as the pipeline sees them. A `None` where a map is an array means an index beyond its end.
///
/// Entries are handed out as references into the map, as in the kernel: userspace may change what is
/// behind them at any moment, so no decision reads a field twice.
pub trait Tables {
    /// The row of `CONFIG`.
    fn config(&self) -> Option<&Config>;
    /// A row of `VIPS`.
    fn vip(&self, key: &VipKey) -> Option<&VipInfo>;
    /// A row of `WORKERS`.
    fn worker(&self, worker: WorkerId) -> Option<&WorkerInfo>;
    /// A row of `WORKER_LOAD`.
    fn worker_load(&self, worker: WorkerId) -> Option<&WorkerLoad>;
    /// A row of `FUNCTIONS`.
    fn function(&self, function: FunctionId) -> Option<&FunctionEntry>;
    /// A row of `SESSIONS`.
    fn session(&self, key: &SessionKey) -> Option<SessionEntry>;
    /// Writes a row of `SESSIONS` that must not be there yet.
    ///
    /// # Errors
    /// [`SessionError::Exists`] if it is.
    fn create_session(&self, key: &SessionKey, entry: SessionEntry) -> Result<(), SessionError>;
    /// Writes a row of `SESSIONS`, whether it is there or not.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if the table takes no entry.
    fn move_session(&self, key: &SessionKey, entry: SessionEntry) -> Result<(), SessionError>;
    /// The entry of `SLOTS` at `index` (see [`ebpf_common::maps::slot_index`]).
    fn slot(&self, index: u32) -> Option<WorkerId>;
    /// The entry of `HOME` at `index` (see [`ebpf_common::maps::home_index`]).
    fn home(&self, index: u32) -> Option<WorkerId>;
    /// Makes [`crate::Verdict::Redirect`] send the packet out of `ifindex`; false if it is not in `PORTS`.
    fn redirect(&self, ifindex: u32) -> bool;
    /// Adds one to `counter`.
    fn count(&self, counter: Counter);
}
