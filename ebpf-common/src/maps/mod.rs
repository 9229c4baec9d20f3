//! The BPF maps: their names, keys and values. `docs/maps.md` says what each costs in memory.

mod config;
mod counters;
mod function;
mod pktgen;
mod place;
mod scratch;
mod traffic;
mod vip;
mod worker;

pub use config::{Config, Rate, features};
pub use counters::{Class, Counter};
pub use function::{Affinity, FunctionEntry, FunctionRow, function_hash};
pub use pktgen::PktgenInfo;
pub use place::{Place, PlaceRow, row_index};
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
    /// DEVMAP_HASH: interface index → the same, the ports that packets can leave by.
    pub const PORTS: &str = "PORTS";
    /// Per-CPU array: [`super::Counter`] → `u64`.
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array: VIP number → [`super::Traffic`].
    pub const VIP_COUNTERS: &str = "VIP_COUNTERS";
    /// Per-CPU array: worker id → [`super::Traffic`].
    pub const WORKER_COUNTERS: &str = "WORKER_COUNTERS";
    /// Per-CPU array of [`super::TopFunction`], by hash of the function.
    pub const FUNCTION_COUNTERS: &str = "FUNCTION_COUNTERS";
    /// All of them, in the order in which they are listed to people.
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
        PORTS,
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
