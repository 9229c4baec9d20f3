//! `CONFIG`: what the program must know that is not in a table.

use crate::{
    cookie::CookieKeys,
    hash::{SipKey, TableSecret},
    load::LoadKeys,
    map_type::map_type,
    maps::Rate,
    token::TokenKeys,
};

/// Bits of [`Config::features`]: what is switched on.
pub mod features {
    /// Sources are looked up in the block lists.
    pub const BLOCK_LIST: u32 = 1 << 0;
    /// Each source has a rate.
    pub const SOURCE_RATE: u32 = 1 << 1;
    /// Some functions have a rate.
    pub const FUNCTION_RATE: u32 = 1 << 2;
    /// Requests without an address token are answered with RETRY above a rate.
    pub const ADDRESS_TOKENS: u32 = 1 << 3;
    /// Requests for a worker that is overloaded are answered with ERROR.
    pub const SHED: u32 = 1 << 4;
    /// Answers have a rate.
    pub const ANSWER_RATE: u32 = 1 << 5;
    /// Entries of flows have a rate at which they are given to other flows.
    pub const EVICTION_RATE: u32 = 1 << 6;
    /// The hop limit of forwarded packets is not lowered (for measuring; loops are then not broken).
    pub const KEEP_HOP_LIMIT: u32 = 1 << 7;
}

map_type! {
    /// The one row of the `CONFIG` map. A field is written only while the program cannot be using it:
    /// a table copy before `generation` names it, a key before `key_epoch` reaches it.
    Config, 232 {
        /// Which copy of the double-buffered tables is live (its lowest bit).
        generation: u32,
        /// Current epoch of all keys, 0 to 255.
        key_epoch: u32,
        /// What is switched on: see [`features`].
        features: u32,
        /// 256ths of a request in flight, for each unit of a worker's weight, beyond which the home rule goes on to the
        /// next entry ("bounded load"); 0 for no bound but the worker's capacity.
        home_bound: u32,
        /// Rows of `SESSIONS`, a power of two, less one.
        session_mask: u32,
        /// Rows of `FLOWS`, a power of two, less one.
        flow_mask: u32,
        /// Rows of `FUNCTIONS`, a power of two, less one.
        function_mask: u32,
        /// Nanoseconds between two ticks of the kernel's timer (1,000,000,000 / HZ): what `bpf_jiffies64` counts.
        tick_ns: u32,
        /// Secret of the hashes that place sessions, flows and sources in their tables.
        table_secret: [u64; 2],
        /// SipHash keys of route cookies as `[k0, k1]`, by the parity of their epoch.
        cookie_keys: [[u64; 2]; 2],
        /// SipHash keys of address tokens, likewise.
        token_keys: [[u64; 2]; 2],
        /// SipHash keys of LOAD packets, likewise.
        load_keys: [[u64; 2]; 2],
        /// Rate of one source.
        source_rate: Rate,
        /// Rate of requests without an address token, of one CPU.
        unknown_rate: Rate,
        /// Rate of answers, of one CPU.
        answer_rate: Rate,
        /// Rate at which entries of flows are given to other flows, of one CPU.
        eviction_rate: Rate,
        /// With [`features::SHED`]: a worker with this percent of its capacity in flight gets no more requests.
        shed_percent: u32,
        /// IPv4 source of encapsulated packets; the last two bytes are varied by flow.
        tunnel_v4: [u8; 4],
        /// IPv6 source of encapsulated packets; the last four bytes are varied by flow.
        tunnel_v6: [u8; 16],
    }
}

impl Config {
    /// All zero: nothing is switched on, and no key is one.
    pub const ZERO: Self = Self {
        generation: 0,
        key_epoch: 0,
        features: 0,
        home_bound: 0,
        session_mask: 0,
        flow_mask: 0,
        function_mask: 0,
        tick_ns: 0,
        table_secret: [0; 2],
        cookie_keys: [[0; 2]; 2],
        token_keys: [[0; 2]; 2],
        load_keys: [[0; 2]; 2],
        source_rate: Rate::NONE,
        unknown_rate: Rate::NONE,
        answer_rate: Rate::NONE,
        eviction_rate: Rate::NONE,
        shed_percent: 0,
        tunnel_v4: [0; 4],
        tunnel_v6: [0; 16],
    };

    /// Whether all bits of `mask` are set in [`Self::features`].
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, mask: u32) -> bool {
        self.features & mask == mask
    }

    /// The cookie keys in the form that [`CookieKeys`] works with.
    #[inline(always)]
    #[must_use]
    pub const fn cookie_keys(&self) -> CookieKeys {
        CookieKeys {
            epoch: self.key_epoch as u8,
            keys: pair(&self.cookie_keys),
        }
    }

    /// The keys of address tokens in the form that [`TokenKeys`] works with.
    #[inline(always)]
    #[must_use]
    pub const fn token_keys(&self) -> TokenKeys {
        TokenKeys {
            epoch: self.key_epoch as u8,
            keys: pair(&self.token_keys),
        }
    }

    /// The keys of LOAD packets in the form that [`LoadKeys`] works with.
    #[inline(always)]
    #[must_use]
    pub const fn load_keys(&self) -> LoadKeys {
        LoadKeys {
            epoch: self.key_epoch as u8,
            roots: pair(&self.load_keys),
        }
    }

    /// The secret of the table hashes.
    #[inline(always)]
    #[must_use]
    pub const fn table_secret(&self) -> TableSecret {
        TableSecret(self.table_secret)
    }
}

#[inline(always)]
const fn pair(keys: &[[u64; 2]; 2]) -> [SipKey; 2] {
    let [[even0, even1], [odd0, odd1]] = *keys;
    [
        SipKey {
            k0: even0,
            k1: even1,
        },
        SipKey { k0: odd0, k1: odd1 },
    ]
}
