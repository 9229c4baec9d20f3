//! The BPF maps: their names, keys and values. `docs/maps.md` says what each costs in memory.

mod config;
mod counters;
mod function;
mod session;
mod vip;
mod worker;

pub use config::Config;
pub use counters::{Class, Counter};
pub use function::{Affinity, FunctionEntry};
pub use session::{SessionEntry, SessionKey};
pub use vip::{VipInfo, VipKey, VipKind};
pub use worker::{WorkerInfo, WorkerLoad, WorkerState};

use crate::{
    ids::{FunctionId, SlotId},
    limits::{MAGLEV_TABLE_LEN, SLOTS},
};

/// Map names: as in the object file, under the pin path, and in `warmpath map dump`.
pub mod name {
    /// Array, one `u32`: [`crate::LAYOUT_VERSION`].
    pub const LAYOUT: &str = "LAYOUT";
    /// Array, one [`super::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// Hash: [`super::VipKey`] → [`super::VipInfo`].
    pub const VIPS: &str = "VIPS";
    /// Array: worker id → [`super::WorkerInfo`].
    pub const WORKERS: &str = "WORKERS";
    /// Array: worker id → [`super::WorkerLoad`].
    pub const WORKER_LOAD: &str = "WORKER_LOAD";
    /// Hash: function id (`u64`) → [`super::FunctionEntry`].
    pub const FUNCTIONS: &str = "FUNCTIONS";
    /// LRU hash: [`super::SessionKey`] → [`super::SessionEntry`].
    pub const SESSIONS: &str = "SESSIONS";
    /// Array, two generations: slot → worker id (`u16`).
    pub const SLOTS: &str = "SLOTS";
    /// Array, two generations: Maglev entry → worker id (`u16`).
    pub const HOME: &str = "HOME";
    /// DEVMAP_HASH: interface index → the same, the ports that packets can leave by.
    pub const PORTS: &str = "PORTS";
    /// Per-CPU array: [`super::Counter`] → `u64`.
    pub const COUNTERS: &str = "COUNTERS";
    /// All of them, in the order in which they are listed to people.
    pub const ALL: [&str; 11] = [
        LAYOUT,
        CONFIG,
        VIPS,
        WORKERS,
        WORKER_LOAD,
        FUNCTIONS,
        SESSIONS,
        SLOTS,
        HOME,
        PORTS,
        COUNTERS,
    ];
}

/// Position of `slot` in the `SLOTS` map for `generation`.
#[inline(always)]
#[must_use]
pub const fn slot_index(generation: u32, slot: SlotId) -> u32 {
    (generation & 1) * SLOTS + slot.0 as u32
}

/// Position in the `HOME` map, for `generation`, of the entry that `function` hashes to, `probe` steps on.
#[inline(always)]
#[must_use]
pub const fn home_index(generation: u32, function: FunctionId, probe: u32) -> u32 {
    let hash = crate::hash::mix64(function.0).wrapping_add(probe as u64);
    (generation & 1) * MAGLEV_TABLE_LEN + (hash % MAGLEV_TABLE_LEN as u64) as u32
}
