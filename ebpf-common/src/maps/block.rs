//! `BLOCK4`, `BLOCK6`, `BLOCK_FILTER`: the sources that may not send.
//!
//! The lists are LPM tries, whose look-up costs a hundred nanoseconds; the filter before them is one bit for all prefixes
//! that begin alike, so that sources that are far from any prefix never see a trie.

use crate::{
    limits::{BLOCK_FILTER_BITS, BLOCK_FILTER_WORDS},
    map_type::map_type,
    token::{SourceAddress, SourceWords},
};

map_type! {
    /// A prefix of `BLOCK4` or `BLOCK6`.
    BlockEntry, 8 {
        /// Packets dropped because this was the longest prefix of their source. The program counts, over all CPUs.
        hits: u64,
    }
}

const HALF: u32 = BLOCK_FILTER_BITS / 2;

/// The bit of `BLOCK_FILTER` for a source. Bit `b` is bit `b % 64` of word `b / 64`.
///
/// Of an IPv4 address it is the first 16 bits; of an IPv6 address a hash of the first 32, because the first 16 of nearly
/// all are one of a handful.
#[inline(always)]
#[must_use]
pub const fn block_filter_bit(source: SourceAddress) -> u32 {
    match source.words() {
        SourceWords::V4(addr) => bit4(u32::from_be(addr)),
        SourceWords::V6([net, _]) => bit6((u64::from_be(net) >> 32) as u32),
    }
}

#[inline(always)]
const fn bit4(addr: u32) -> u32 {
    addr >> 16
}

#[inline(always)]
const fn bit6(first: u32) -> u32 {
    HALF + (first.wrapping_mul(0x9e37_79b1) >> 16)
}

/// What `BLOCK_FILTER` must hold, as the control plane builds it from all prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockFilter {
    words: [u64; BLOCK_FILTER_WORDS as usize],
}

impl BlockFilter {
    /// That of no prefix.
    pub const ZERO: Self = Self {
        words: [0; BLOCK_FILTER_WORDS as usize],
    };

    /// Adds the first `prefix_len` bits of `addr`.
    pub fn add4(&mut self, addr: [u8; 4], prefix_len: u32) {
        let host_bits = 16 - prefix_len.min(16);
        let first = bit4(u32::from_be_bytes(addr)) >> host_bits << host_bits;
        for bit in first..first + (1 << host_bits) {
            self.set(bit);
        }
    }

    /// Adds the first `prefix_len` bits of `addr`.
    pub fn add6(&mut self, addr: [u8; 16], prefix_len: u32) {
        let host_bits = 32 - prefix_len.min(32);
        if host_bits >= 16 {
            // At least as many beginnings as there are bits.
            for bit in HALF..BLOCK_FILTER_BITS {
                self.set(bit);
            }
            return;
        }
        let [a, b, c, d, ..] = addr;
        let first = u32::from_be_bytes([a, b, c, d]) >> host_bits << host_bits;
        for low in 0..1u32 << host_bits {
            self.set(bit6(first | low));
        }
    }

    /// The words of the map, by index.
    #[must_use]
    pub const fn words(&self) -> &[u64; BLOCK_FILTER_WORDS as usize] {
        &self.words
    }

    fn set(&mut self, bit: u32) {
        if let Some(word) = self.words.get_mut((bit >> 6) as usize) {
            *word |= 1 << (bit & 63);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn has(filter: &BlockFilter, bit: u32) -> bool {
        filter.words()[(bit >> 6) as usize] >> (bit & 63) & 1 == 1
    }

    fn set_bits(filter: &BlockFilter) -> u32 {
        filter.words().iter().map(|word| word.count_ones()).sum()
    }

    proptest! {
        #[test]
        fn every_source_under_a_prefix_finds_its_bit(addr: u32, source: u32, len in 0u32..=32) {
            let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
            let source = (addr & mask | source & !mask).to_be_bytes();
            let mut filter = BlockFilter::ZERO;
            filter.add4(addr.to_be_bytes(), len);
            prop_assert!(has(&filter, block_filter_bit(SourceAddress::v4(source))));
            prop_assert_eq!(set_bits(&filter), 1 << (16 - len.min(16)));
        }

        #[test]
        fn every_ipv6_source_under_a_prefix_finds_its_bit(addr: u128, source: u128, len in 0u32..=128) {
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            let source = (addr & mask | source & !mask).to_be_bytes();
            let mut filter = BlockFilter::ZERO;
            filter.add6(addr.to_be_bytes(), len);
            prop_assert!(has(&filter, block_filter_bit(SourceAddress::v6(source))));
            prop_assert!(set_bits(&filter) <= 1 << (32 - len.min(32)).min(16));
        }
    }

    #[test]
    fn the_families_do_not_share_bits() {
        let mut filter = BlockFilter::ZERO;
        filter.add4([0; 4], 0);
        for first in 0..=u8::MAX {
            let addr = [first, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert!(!has(&filter, block_filter_bit(SourceAddress::v6(addr))));
        }
        filter.add6([0; 16], 0);
        assert_eq!(set_bits(&filter), BLOCK_FILTER_BITS);
    }
}
