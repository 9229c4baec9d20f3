//! The BPF maps: their names, keys and values. `docs/maps.md` says what each costs in memory.

mod block;
mod bucket;
mod config;
mod counters;
mod decap;
mod function;
mod pktgen;
mod place;
mod rate;
mod scratch;
mod traffic;
mod vip;
mod worker;

pub use block::{BlockEntry, BlockFilter, block_filter_bit};
pub use bucket::{CpuBucket, FunctionLimit, source_bucket};
pub use config::{Config, features};
pub use counters::{Class, Counter};
pub use decap::{DECAP_ADDRESSES, DECAP_SOURCES, DecapRow, Prefix4, Prefix6, words};
pub use function::{Affinity, FunctionEntry, FunctionRow, function_hash};
pub use pktgen::PktgenInfo;
pub use place::{Place, PlaceRow, flow_hash, row_index};
pub use rate::{CLOCK_TICK_NS, Rate, RateError};
pub use scratch::SchemaScratch;
pub use traffic::{TopFunction, Traffic};
pub use vip::{
    ForwardMode, Vip6Key, Vip6Row, VipInfo, VipKey, VipKind, VipRow, vip_filter_bit, vip_hash,
    vip6_filter_bit, vip6_hash,
};
pub use worker::{NORMAL_WEIGHT, WorkerInfo, WorkerLoad, WorkerState, worker_flags};

use crate::{
    ids::{FunctionId, SlotId},
    limits::{MAGLEV_TABLE_LEN, MAX_POOLS, SLOTS},
};

/// Map names: as in the object file, under the pin path, and in `warmpath map dump`.
pub mod name {
    /// Array, one `u32`: [`crate::LAYOUT_VERSION`].
    pub const LAYOUT: &str = "LAYOUT";
    /// Array, one [`super::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// Array of [`super::VipRow`], see [`crate::cuckoo`].
    pub const VIPS: &str = "VIPS";
    /// Array of [`super::Vip6Row`], see [`crate::cuckoo`].
    pub const VIPS6: &str = "VIPS6";
    /// Array of `u64`: one bit for each address that may have a VIP, see [`super::vip_filter_bit`].
    pub const VIP_FILTER: &str = "VIP_FILTER";
    /// Array: worker id → [`super::WorkerInfo`].
    pub const WORKERS: &str = "WORKERS";
    /// Array: worker id → [`super::WorkerLoad`].
    pub const WORKER_LOAD: &str = "WORKER_LOAD";
    /// Array of [`super::FunctionRow`], see [`crate::cuckoo`].
    pub const FUNCTIONS: &str = "FUNCTIONS";
    /// Array of [`super::PlaceRow`]: session → worker.
    pub const SESSIONS: &str = "SESSIONS";
    /// Array of [`super::PlaceRow`]: flow, or message of several fragments → worker.
    pub const FLOWS: &str = "FLOWS";
    /// Array, two generations: slot → worker id (`u16`).
    pub const SLOTS: &str = "SLOTS";
    /// Array, two generations of each pool's table: Maglev entry → worker id (`u16`).
    pub const HOME: &str = "HOME";
    /// Array of [`crate::schema::SchemaEntry`].
    pub const SCHEMAS: &str = "SCHEMAS";
    /// Per-CPU array, one [`super::SchemaScratch`]: where payloads are scanned.
    pub const SCHEMA_SCRATCH: &str = "SCHEMA_SCRATCH";
    /// Array of [`super::PktgenInfo`].
    pub const PKTGEN: &str = "PKTGEN";
    /// LPM trie: IPv4 prefix of sources that may not send → [`super::BlockEntry`].
    pub const BLOCK4: &str = "BLOCK4";
    /// LPM trie: IPv6 prefix of sources that may not send → [`super::BlockEntry`].
    pub const BLOCK6: &str = "BLOCK6";
    /// Array of `u64`: which sources may have a prefix in the lists, see [`super::BlockFilter`].
    pub const BLOCK_FILTER: &str = "BLOCK_FILTER";
    /// Array of `u64`: the state of each source's rate, see [`super::source_bucket`].
    pub const SOURCE_BUCKETS: &str = "SOURCE_BUCKETS";
    /// Array of [`super::FunctionLimit`], placed by [`super::function_hash`].
    pub const FUNCTION_LIMITS: &str = "FUNCTION_LIMITS";
    /// Array of `u64`: the state of each function's rate, in the row of its limit.
    pub const FUNCTION_BUCKETS: &str = "FUNCTION_BUCKETS";
    /// Per-CPU array of `u64`, by [`super::CpuBucket`].
    pub const CPU_BUCKETS: &str = "CPU_BUCKETS";
    /// Array, one [`super::DecapRow`]; of a worker.
    pub const DECAP: &str = "DECAP";
    /// DEVMAP_HASH: interface index → the same, the ports that packets can leave by.
    pub const PORTS: &str = "PORTS";
    /// Per-CPU array, one row of scratch words: a way around the verifier, see `xdp_balancer::Tables::opaque`.
    pub const OPAQUE: &str = "OPAQUE";
    /// Per-CPU array: [`super::Counter`] → `u64`.
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array: VIP number → [`super::Traffic`].
    pub const VIP_COUNTERS: &str = "VIP_COUNTERS";
    /// Per-CPU array: worker id → [`super::Traffic`].
    pub const WORKER_COUNTERS: &str = "WORKER_COUNTERS";
    /// Per-CPU array of [`super::TopFunction`], by hash of the function.
    pub const FUNCTION_COUNTERS: &str = "FUNCTION_COUNTERS";
    /// Array, one [`crate::event::TraceFilter`]: a tracer's.
    pub const TRACE: &str = "TRACE";
    /// Per-CPU array, one [`crate::event::TraceScratch`]: a tracer's.
    pub const TRACE_SCRATCH: &str = "TRACE_SCRATCH";
    /// Ring buffer of [`crate::event::TraceEvent`]: a tracer's.
    pub const EVENTS: &str = "EVENTS";
    /// Those that only the program `traced` uses: never pinned, since each tracer has its own.
    pub const OF_TRACER: &[&str] = &[TRACE, TRACE_SCRATCH, EVENTS];
    /// All others, which are pinned, in the order in which they are listed to people.
    pub const ALL: &[&str] = &[
        LAYOUT,
        CONFIG,
        VIPS,
        VIPS6,
        VIP_FILTER,
        WORKERS,
        WORKER_LOAD,
        FUNCTIONS,
        SESSIONS,
        FLOWS,
        SLOTS,
        HOME,
        SCHEMAS,
        SCHEMA_SCRATCH,
        PKTGEN,
        BLOCK4,
        BLOCK6,
        BLOCK_FILTER,
        SOURCE_BUCKETS,
        FUNCTION_LIMITS,
        FUNCTION_BUCKETS,
        CPU_BUCKETS,
        DECAP,
        PORTS,
        OPAQUE,
        COUNTERS,
        VIP_COUNTERS,
        WORKER_COUNTERS,
        FUNCTION_COUNTERS,
    ];
}

/// Position of `slot` in the `SLOTS` map for `generation`.
#[inline(always)]
#[must_use]
pub const fn slot_index(generation: u32, slot: SlotId) -> u32 {
    (generation & 1) * SLOTS + slot.0 as u32
}

/// Position in the `HOME` map, for `generation`, of the entry of `pool` that `hash` leads to, `probe` steps on.
#[inline(always)]
#[must_use]
pub const fn home_index(generation: u32, pool: u8, hash: u64, probe: u32) -> u32 {
    let table = (generation & 1) * MAX_POOLS + (pool as u32 & (MAX_POOLS - 1));
    let entry = hash.wrapping_add(probe as u64) % MAGLEV_TABLE_LEN as u64;
    table * MAGLEV_TABLE_LEN + entry as u32
}

/// The hash by which the home rule places `function`.
#[inline(always)]
#[must_use]
pub const fn home_hash(function: FunctionId) -> u64 {
    crate::hash::mix64(function.0)
}
