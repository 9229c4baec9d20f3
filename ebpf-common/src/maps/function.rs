//! `FUNCTIONS`: what the program knows of a deployed function.

use crate::{
    hash::mix64,
    ids::{FunctionId, WorkerId},
    limits::MAX_WARM,
    map_type::map_type,
};

/// Which rule a function's manifest asks for before warm and home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Affinity {
    /// None: any warm worker will do.
    None = 0,
    /// Requests of one session meet the same worker.
    Session = 1,
    /// A request goes to the worker that owns its slot, and nowhere else.
    Shard = 2,
}

map_type! {
    /// A deployed function.
    FunctionEntry, 36 {
        /// An [`Affinity`] code.
        affinity: u8,
        /// How many entries of `warm` are set.
        warm_len: u8,
        /// Row in `SCHEMAS` of the extractor of its session or shard key, plus one; 0 for none.
        schema: u16,
        /// Ids of workers with a warm sandbox; entries from `warm_len` on are [`WorkerId::NONE`].
        warm: [u16; MAX_WARM],
    }
}

map_type! {
    /// A row of `FUNCTIONS`: a cache line. All zero is an empty row, so id 0 is no function.
    FunctionRow, 64 {
        /// The function's id; written last when a row is filled, and first when it is emptied.
        function: u64,
        /// The function.
        entry: FunctionEntry,
        /// Unused; zero.
        reserved: [u8; 20],
    }
}

impl FunctionRow {
    /// A row without a function.
    pub const EMPTY: Self = Self {
        function: 0,
        entry: FunctionEntry {
            affinity: 0,
            warm_len: 0,
            schema: 0,
            warm: [0; MAX_WARM],
        },
        reserved: [0; 20],
    };

    /// The row of `function`.
    #[must_use]
    pub const fn new(function: FunctionId, entry: FunctionEntry) -> Self {
        Self {
            function: function.0,
            entry,
            reserved: [0; 20],
        }
    }
}

/// The hash by which `function` stands in `FUNCTIONS` (see [`crate::cuckoo`]).
#[inline(always)]
#[must_use]
pub const fn function_hash(function: FunctionId) -> u64 {
    mix64(function.0)
}

impl FunctionEntry {
    /// An entry with `affinity` and the first [`MAX_WARM`] of `warm`.
    #[must_use]
    pub fn new(affinity: Affinity, warm: &[WorkerId]) -> Self {
        let mut entry = Self {
            affinity: affinity as u8,
            warm_len: warm.len().min(MAX_WARM) as u8,
            schema: 0,
            warm: [WorkerId::NONE.0; MAX_WARM],
        };
        for (place, worker) in entry.warm.iter_mut().zip(warm) {
            *place = worker.0;
        }
        entry
    }

    /// The affinity; an unknown code counts as none.
    #[inline(always)]
    #[must_use]
    pub const fn affinity(&self) -> Affinity {
        match self.affinity {
            1 => Affinity::Session,
            2 => Affinity::Shard,
            _ => Affinity::None,
        }
    }
}
