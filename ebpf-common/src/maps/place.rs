//! `SESSIONS` and `FLOWS`: where a session or a flow was placed. Rows of eight places, a cache line each.
//!
//! ```text
//!  63                    17  16  15            0
//! +------------------------+---+----------------+
//! | fingerprint, never 0   | R |   worker id    |     0: an empty place
//! +------------------------+---+----------------+
//! ```
//! A set-associative table in an array map, in place of the kernel's LRU hash: a look-up touches one cache line
//! instead of four, an insertion takes no lock, an entry costs eight bytes instead of about a hundred, and an eviction
//! is seen and counted. What is looked up is not kept, only 46 bits of a keyed hash of it beside the row that another part
//! of the hash chose: a session that nobody placed meets another's place once in 2^43 look-ups in a full row.
//!
//! Which entry goes when a row is full is decided by the clock algorithm (Corbató, 1968) within the row: each use sets R,
//! the search for a victim clears it, and the first that is found clear goes.

use crate::{
    hash::{TableHash, TableSecret, mix64, table_hash},
    ids::WorkerId,
    limits::PLACES_PER_ROW,
    map_type::map_type,
};

const REFERENCED: u64 = 1 << 16;
const WORKER_MASK: u64 = 0xffff;
const FINGERPRINT_MASK: u64 = !(REFERENCED | WORKER_MASK);
/// Keeps a fingerprint from being zero, which would make an empty place of worker 0's.
const FINGERPRINT_ONE: u64 = 1 << 17;

map_type! {
    /// One row of `SESSIONS` or `FLOWS`.
    PlaceRow, 64 {
        /// [`Place`]s as numbers.
        places: [u64; PLACES_PER_ROW as usize],
    }
}

/// One entry of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u64);

impl Place {
    /// No entry.
    pub const EMPTY: Self = Self(0);

    /// What hashes to `hash` lives on `worker`.
    #[inline(always)]
    #[must_use]
    pub const fn new(hash: TableHash, worker: WorkerId) -> Self {
        Self(fingerprint(hash) | worker.0 as u64)
    }

    /// Whether this is the entry of what hashes to `hash`.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, hash: TableHash) -> bool {
        self.0 & FINGERPRINT_MASK == fingerprint(hash)
    }

    /// Where it lives.
    #[inline(always)]
    #[must_use]
    pub const fn worker(self) -> WorkerId {
        WorkerId((self.0 & WORKER_MASK) as u16)
    }

    /// Whether there is no entry.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it was used since the last search for a victim came by.
    #[inline(always)]
    #[must_use]
    pub const fn is_referenced(self) -> bool {
        self.0 & REFERENCED != 0
    }

    /// The same, used or not.
    #[inline(always)]
    #[must_use]
    pub const fn with_referenced(self, is_referenced: bool) -> Self {
        if is_referenced {
            Self(self.0 | REFERENCED)
        } else {
            Self(self.0 & !REFERENCED)
        }
    }
}

/// The row of what hashes to `hash`, in a table of `mask + 1` rows. The fingerprint is of other bits.
#[inline(always)]
#[must_use]
pub const fn row_index(hash: TableHash, mask: u32) -> u32 {
    hash.row & mask
}

/// Where a flow stands in `FLOWS`: by the words of its source address as they lie in memory (the second one is 0 for IPv4),
/// its ports (source, then destination), and the VIP's number, which stands for its address and protocol.
#[inline(always)]
#[must_use]
pub const fn flow_hash(
    secret: TableSecret,
    vip_id: u32,
    source: [u64; 2],
    ports: u32,
) -> TableHash {
    let [high, low] = source;
    let [_, k1] = secret.0;
    // An address of IPv6 is folded to a word, keyed.
    let address = if high >> 32 == 0 && low == 0 {
        high
    } else {
        mix64(high ^ k1) ^ low
    };
    let rest = (vip_id as u64) << 32 | ports as u64;
    table_hash(secret, address, rest)
}

#[inline(always)]
const fn fingerprint(hash: TableHash) -> u64 {
    (hash.fingerprint & FINGERPRINT_MASK) | FINGERPRINT_ONE
}
