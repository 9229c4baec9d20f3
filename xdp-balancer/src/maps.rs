//! Every map of the program, and [`Tables`] over them. Capacities are the defaults of
//! `ebpf_common::limits`; names are those of `ebpf_common::maps::name`; who pins them, and where, is for
//! the control plane to say.
#![expect(
    unsafe_code,
    reason = "maps are memory shared with other CPUs and with userspace"
)]

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray},
};
use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits,
    maps::{
        Config, Counter, FunctionEntry, SessionEntry, SessionKey, VipInfo, VipKey, WorkerInfo,
        WorkerLoad,
    },
};
use xdp_balancer::{SessionError, Tables};

/// errno of an entry that is there already, as the kernel's helpers return it.
const MINUS_EEXIST: i32 = -17;

/// Written by userspace, read by userspace; the program only carries it.
#[map]
static LAYOUT: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static VIPS: HashMap<VipKey, VipInfo> = HashMap::with_max_entries(limits::MAX_VIPS, 0);
#[map]
static WORKERS: Array<WorkerInfo> = Array::with_max_entries(limits::MAX_WORKERS, 0);
#[map]
static WORKER_LOAD: Array<WorkerLoad> = Array::with_max_entries(limits::MAX_WORKERS, 0);
/// Not preallocated: a million entries would take 100 MB before the first function is deployed, and only
/// userspace writes here, so allocation is never on a packet's way.
#[map]
static FUNCTIONS: HashMap<u64, FunctionEntry> =
    HashMap::with_max_entries(limits::MAX_FUNCTIONS, BPF_F_NO_PREALLOC);
#[map]
static SESSIONS: LruHashMap<SessionKey, SessionEntry> =
    LruHashMap::with_max_entries(limits::MAX_SESSIONS, 0);
#[map]
static SLOTS: Array<u16> = Array::with_max_entries(limits::GENERATIONS * limits::SLOTS, 0);
#[map]
static HOME: Array<u16> =
    Array::with_max_entries(limits::GENERATIONS * limits::MAGLEV_TABLE_LEN, 0);
#[map]
static PORTS: DevMapHash = DevMapHash::with_max_entries(limits::MAX_PORTS, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// The maps of the loaded program.
pub(crate) struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<&VipInfo> {
        // SAFETY: a row that is deleted and reused while it is read may be torn: it is then another VIP's, of
        // the same type, and any bytes are valid. The same holds for every `get` below.
        unsafe { VIPS.get(key) }
    }

    #[inline(always)]
    fn worker(&self, worker: WorkerId) -> Option<&WorkerInfo> {
        WORKERS.get(u32::from(worker.0))
    }

    #[inline(always)]
    fn worker_load(&self, worker: WorkerId) -> Option<&WorkerLoad> {
        WORKER_LOAD.get(u32::from(worker.0))
    }

    #[inline(always)]
    fn function(&self, function: FunctionId) -> Option<&FunctionEntry> {
        // SAFETY: see `vip`.
        unsafe { FUNCTIONS.get(function.0) }
    }

    #[inline(always)]
    fn session(&self, key: &SessionKey) -> Option<SessionEntry> {
        // SAFETY: see `vip`. An LRU may give the row to another session at any moment; four bytes are read at once.
        unsafe { SESSIONS.get(key) }.copied()
    }

    #[inline(always)]
    fn create_session(&self, key: &SessionKey, entry: SessionEntry) -> Result<(), SessionError> {
        match SESSIONS.insert(key, entry, u64::from(BPF_NOEXIST)) {
            Ok(()) => Ok(()),
            Err(MINUS_EEXIST) => Err(SessionError::Exists),
            Err(_) => Err(SessionError::Refused),
        }
    }

    #[inline(always)]
    fn move_session(&self, key: &SessionKey, entry: SessionEntry) -> Result<(), SessionError> {
        match SESSIONS.insert(key, entry, u64::from(BPF_ANY)) {
            Ok(()) => Ok(()),
            Err(_) => Err(SessionError::Refused),
        }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<WorkerId> {
        SLOTS.get(index).copied().map(WorkerId)
    }

    #[inline(always)]
    fn home(&self, index: u32) -> Option<WorkerId> {
        HOME.get(index).copied().map(WorkerId)
    }

    #[inline(always)]
    fn redirect(&self, ifindex: u32) -> bool {
        PORTS.redirect(ifindex, 0).is_ok()
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: the row is this CPU's own, and XDP programs of one CPU do not interrupt each other.
            unsafe { *count += 1 };
        }
    }
}
