//! What the pipeline asks of the BPF maps.

use core::cell::Cell;

use ebpf_common::{
    event::TraceEvent,
    hash::TableHash,
    ids::{FunctionId, WorkerId},
    limits::PLACES_PER_ROW,
    maps::{
        Config, Counter, CpuBucket, DecapRow, FunctionEntry, FunctionLimit, PktgenInfo, Vip6Key,
        VipInfo, VipKey, WorkerInfo, WorkerLoad,
    },
    schema::{Key, SchemaEntry},
    token::SourceAddress,
};

use crate::{
    Packet,
    route::{home, places},
};

/// A row of `SESSIONS` or `FLOWS` (see [`ebpf_common::maps::Place`]). Other CPUs read and write it too: aligned words, which
/// the machine loads and stores whole; and not atomics, whose loads LLVM compiles from instruction set v4 on only.
pub type Row = [Cell<u64>; PLACES_PER_ROW as usize];

/// The BPF maps as the pipeline sees them. A `None` where a map is an array means an index beyond its end.
///
/// Entries are handed out as references into the map, as in the kernel: userspace may change what is
/// behind them at any moment, so no decision reads a field twice.
pub trait Tables {
    /// The row of `CONFIG`.
    fn config(&self) -> Option<&Config>;
    /// Word `index` of `VIP_FILTER`.
    fn vip_filter(&self, index: u32) -> Option<u64>;
    /// A row of `VIPS`.
    fn vip(&self, key: &VipKey) -> Option<&VipInfo>;
    /// A row of `VIPS6`.
    fn vip6(&self, key: &Vip6Key) -> Option<&VipInfo>;
    /// A row of `WORKERS`.
    fn worker(&self, worker: WorkerId) -> Option<&WorkerInfo>;
    /// A copy of a row of `WORKER_LOAD`; fields may be of different moments.
    fn worker_load(&self, worker: WorkerId) -> Option<WorkerLoad>;
    /// Changes a row of `WORKER_LOAD` by a LOAD packet. `sent` goes on being counted by other CPUs meanwhile, so
    /// `change` must not write it.
    fn change_load<R>(
        &self,
        worker: WorkerId,
        change: impl FnOnce(&mut WorkerLoad) -> R,
    ) -> Option<R>;
    /// Adds `requests` to [`WorkerLoad::sent`], whatever other CPUs do.
    fn count_sent(&self, worker: WorkerId, requests: u32);
    /// A row of `FUNCTIONS`.
    fn function(&self, function: FunctionId) -> Option<&FunctionEntry>;
    /// A row of `SCHEMAS`.
    fn schema(&self, index: u32) -> Option<&SchemaEntry>;
    /// What `schema` finds in the `len` bytes of payload at `offset` of the frame, which holds them.
    fn extract<P: Packet>(
        &self,
        packet: &P,
        offset: u32,
        len: u32,
        schema: &SchemaEntry,
    ) -> Option<Key>;
    /// A row of `SESSIONS`.
    fn session_row(&self, index: u32) -> Option<&Row>;
    /// A row of `FLOWS`.
    fn flow_row(&self, index: u32) -> Option<&Row>;
    /// The entry of `SLOTS` at `index` (see [`ebpf_common::maps::slot_index`]).
    fn slot(&self, index: u32) -> Option<WorkerId>;
    /// The entry of `HOME` at `index` (see [`ebpf_common::maps::home_index`]).
    fn home(&self, index: u32) -> Option<WorkerId>;
    /// [`home::search`] in these tables.
    fn search_home(&self, hash: u64, pool: u8, bound: home::Bound) -> home::Found;
    /// [`places::store`] in these tables.
    fn store_place(&self, key: places::Key, hash: TableHash, worker: WorkerId) -> places::Stored;
    /// A row of `PKTGEN`.
    fn pktgen(&self, index: u32) -> Option<&PktgenInfo>;
    /// Word `index` of `BLOCK_FILTER`.
    fn block_filter(&self, index: u32) -> Option<u64>;
    /// Whether `BLOCK4` or `BLOCK6` has a prefix of `source`; counts a hit of the longest.
    fn blocked(&self, source: SourceAddress) -> bool;
    /// A row of `SOURCE_BUCKETS` (see [`ebpf_common::maps::Rate`]), which other CPUs read and write too.
    fn source_bucket(&self, index: u32) -> Option<&Cell<u64>>;
    /// The row of `FUNCTION_LIMITS` of `function`, and that of `FUNCTION_BUCKETS`, which other CPUs read and write too.
    fn function_limit(&self, function: FunctionId) -> Option<(&FunctionLimit, &Cell<u64>)>;
    /// A row of `CPU_BUCKETS`, this CPU's own.
    fn cpu_bucket(&self, bucket: CpuBucket) -> Option<&Cell<u64>>;
    /// Nanoseconds by the ticks of the kernel's timer: moves in steps of [`Config::tick_ns`] (1 to 10 ms), never back, and
    /// costs a load.
    fn now_ns(&self) -> u64;
    /// The same words, by way of memory that the verifier does not follow.
    ///
    /// VERIFIER: it takes up again what it has verified only where all that it relies on is the same. A rule's counter, an
    /// offset into the packet: each value that a stage can leave in them has all stages behind it verified anew, and the
    /// ways multiply. What was read back from a map may be anything, so there is one way.
    fn opaque<const N: usize>(&self, words: [u32; N]) -> [u32; N];
    /// The row of `DECAP`.
    fn decap(&self) -> Option<&DecapRow>;
    /// Makes [`crate::Verdict::Redirect`] send the packet out of `ifindex`; false if it is not in `PORTS`.
    fn redirect(&self, ifindex: u32) -> bool;
    /// Adds one to `counter`.
    fn count(&self, counter: Counter);
    /// Adds a packet of `bytes` to VIP number `vip_id`.
    fn count_vip(&self, vip_id: u32, bytes: u32);
    /// Adds a packet of `bytes` to `worker`.
    fn count_worker(&self, worker: WorkerId, bytes: u32);
    /// Adds a packet to `function`, as [`ebpf_common::maps::TopFunction`] says.
    fn count_function(&self, function: FunctionId);
    /// Notes something in the event of this packet, where one is made: in `balancer`, nowhere.
    #[inline(always)]
    fn note(&self, note: impl FnOnce(&mut TraceEvent)) {
        drop(note);
    }
}
