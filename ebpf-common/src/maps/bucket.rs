//! `SOURCE_BUCKETS`, `FUNCTION_LIMITS`, `FUNCTION_BUCKETS`, `CPU_BUCKETS`: who is held to which rate, and how far it is.
//!
//! A bucket is one number, the state of [`Rate::admits`], and only the program writes it. CPUs do so without a lock: two
//! that take from one bucket within the same few nanoseconds may count as one, in favour of who is limited.

use crate::{
    hash::{TableSecret, table_hash},
    ids::FunctionId,
    limits::SOURCE_BUCKETS,
    map_type::map_type,
    maps::Rate,
    token::{SourceAddress, SourceWords},
};

/// Rows of `CPU_BUCKETS`: what has a rate on each CPU of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum CpuBucket {
    /// Requests without an address token.
    Unknown = 0,
    /// Answers.
    Answer = 1,
    /// Entries of flows that are given to other flows.
    Eviction = 2,
}

impl CpuBucket {
    /// How many there are.
    pub const COUNT: u32 = 3;
}

map_type! {
    /// A row of `FUNCTION_LIMITS`: a function that has a rate. Rows are placed as [`crate::cuckoo`] says, by
    /// [`crate::maps::function_hash`]. Its bucket is the same row of `FUNCTION_BUCKETS`.
    FunctionLimit, 32 {
        /// The function's id.
        function: u64,
        /// How often it may be called; [`Rate::NONE`] in an empty row.
        rate: Rate,
        /// Unused; zero.
        reserved: u64,
    }
}

impl FunctionLimit {
    /// A row that limits nothing.
    pub const EMPTY: Self = Self {
        function: 0,
        rate: Rate::NONE,
        reserved: 0,
    };

    /// `function` may be called at `rate`.
    #[must_use]
    pub const fn new(function: FunctionId, rate: Rate) -> Self {
        Self {
            function: function.0,
            rate,
            reserved: 0,
        }
    }
}

/// The row of `SOURCE_BUCKETS` of a source: an IPv4 address, or the /64 of an IPv6 address, as its owner can have any
/// address in it. Sources whose hashes meet share a bucket.
#[inline(always)]
#[must_use]
pub const fn source_bucket(secret: TableSecret, source: SourceAddress) -> u32 {
    let hash = match source.words() {
        SourceWords::V4(addr) => table_hash(secret, u32::from_be(addr) as u64, 4),
        SourceWords::V6([net, _]) => table_hash(secret, u64::from_be(net), 6),
    };
    hash.row & (SOURCE_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: TableSecret = TableSecret([5, 6]);

    fn v6(addr: u128) -> u32 {
        source_bucket(SECRET, SourceAddress::v6(addr.to_be_bytes()))
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_the_64_of_an_ipv6_address() {
        let v4 = |last| source_bucket(SECRET, SourceAddress::v4([192, 0, 2, last]));
        assert_ne!(v4(1), v4(2));
        let net = 0x2001_0db8_0000_0001_u128 << 64;
        assert_eq!(v6(net | 1), v6(net | u128::from(u64::MAX)));
        assert_ne!(v6(net), v6(net + (1 << 64)));
        assert_ne!(
            source_bucket(SECRET, SourceAddress::v4([192, 0, 2, 1])),
            source_bucket(TableSecret([5, 7]), SourceAddress::v4([192, 0, 2, 1])),
            "who does not know the secret cannot choose whom it meets"
        );
    }

    #[test]
    fn sources_are_spread_evenly() {
        let mut counts = vec![0u32; SOURCE_BUCKETS as usize];
        for source in 0..8 * SOURCE_BUCKETS {
            counts[source_bucket(SECRET, SourceAddress::v4(source.to_be_bytes())) as usize] += 1;
        }
        // Poisson with mean 8: 40 is beyond anything that happens.
        assert!(counts.iter().all(|count| *count < 40));
        let empty = counts.iter().filter(|count| **count == 0).count();
        // e^-8 of them.
        let expected = f64::from(SOURCE_BUCKETS) * (-8f64).exp();
        assert!((empty as f64) < 1.5 * expected && (empty as f64) > 0.5 * expected);
    }
}
