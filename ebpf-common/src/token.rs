//! Address tokens: proof that a client receives what is sent to its source address, for it echoes what only somebody there
//! can have read (the idea of QUIC's Retry, RFC 9000, section 8.1.2).
//!
//! ```text
//!  63     56 55                                          0
//! +---------+---------------------------------------------+
//! |  epoch  |  SipHash-2-4, top 56 bits                   |
//! +---------+---------------------------------------------+
//! ```
//! The hash covers the epoch and the source address, not the port: it is the address that is proven, and a client may have
//! many sockets. It needs no state in the balancer, and holds at every balancer with the same keys. A route cookie proves
//! nothing of the kind: it says who served a session, and whoever has seen it can send it from anywhere.

use crate::hash::{SipKey, siphash24};

const MAC_BITS: u32 = 56;
const MAC_MASK: u64 = (1 << MAC_BITS) - 1;

/// The address that a packet says it comes from, in words as they lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceAddress {
    /// The address's words as they lie in memory; the second one is 0 for IPv4.
    ///
    /// VERIFIER: a struct whose words are all set, and not an enum: where the family is looked at twice, the verifier also
    /// follows the way on which it was IPv4 first and IPv6 then, and would find what LLVM left where a word was to be.
    words: [u64; 2],
    is_v6: bool,
}

/// An address by its family, in words as they lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceWords {
    /// Of IPv4.
    V4(u32),
    /// Of IPv6.
    V6([u64; 2]),
}

impl SourceAddress {
    /// An IPv4 address as it lies in memory.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(addr: u32) -> Self {
        Self {
            words: [addr as u64, 0],
            is_v6: false,
        }
    }

    /// An IPv6 address as its two words lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn from_v6(words: [u64; 2]) -> Self {
        Self { words, is_v6: true }
    }

    /// The address by its family.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> SourceWords {
        let [first, _] = self.words;
        if self.is_v6 {
            SourceWords::V6(self.words)
        } else {
            SourceWords::V4(first as u32)
        }
    }

    /// An IPv4 address.
    #[must_use]
    pub const fn v4(addr: [u8; 4]) -> Self {
        Self::from_v4(u32::from_ne_bytes(addr))
    }

    /// An IPv6 address.
    #[must_use]
    pub const fn v6(addr: [u8; 16]) -> Self {
        let addr = u128::from_be_bytes(addr);
        Self::from_v6([((addr >> 64) as u64).to_be(), (addr as u64).to_be()])
    }
}

/// The keys that are valid now: those of the current epoch and of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenKeys {
    /// The epoch new tokens are made in; wraps around.
    pub epoch: u8,
    /// Key of an epoch at index `epoch % 2`.
    pub keys: [SipKey; 2],
}

/// Why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Of an epoch that is no longer, or not yet, valid.
    Stale,
    /// Not made with our key for this address.
    Forged,
}

impl TokenKeys {
    /// The token of who receives what is sent to `source`.
    #[inline(always)]
    #[must_use]
    pub fn seal(&self, source: SourceAddress) -> u64 {
        ((self.epoch as u64) << MAC_BITS) | self.mac(self.epoch, source)
    }

    /// Whether `token` is one of ours for `source`.
    ///
    /// # Errors
    /// [`TokenError`] says whether it is out of date or was never ours.
    #[inline(always)]
    pub fn check(&self, token: u64, source: SourceAddress) -> Result<(), TokenError> {
        let epoch = (token >> MAC_BITS) as u8;
        if epoch != self.epoch && epoch != self.epoch.wrapping_sub(1) {
            return Err(TokenError::Stale);
        }
        if self.mac(epoch, source) == token & MAC_MASK {
            Ok(())
        } else {
            Err(TokenError::Forged)
        }
    }

    #[inline(always)]
    fn mac(&self, epoch: u8, source: SourceAddress) -> u64 {
        let [even, odd] = self.keys;
        let key = if epoch & 1 == 0 { even } else { odd };
        let hash = match source.words() {
            SourceWords::V4(addr) => {
                let addr = u32::from_be(addr) as u64;
                siphash24(key, &[((epoch as u64) << 32) | addr])
            }
            // Of another length than an IPv4 address's message, so that none is the other's.
            SourceWords::V6([net, host]) => {
                siphash24(key, &[u64::from_be(net), u64::from_be(host), epoch as u64])
            }
        };
        hash >> (64 - MAC_BITS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: TokenKeys = TokenKeys {
        epoch: 7,
        keys: [SipKey { k0: 1, k1: 2 }, SipKey { k0: 3, k1: 4 }],
    };

    fn sources() -> [SourceAddress; 2] {
        [
            SourceAddress::v4([192, 0, 2, 1]),
            SourceAddress::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ]
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for source in sources() {
            let token = KEYS.seal(source);
            assert_eq!(KEYS.check(token, source), Ok(()));
            for bit in 0..64 {
                assert!(KEYS.check(token ^ (1 << bit), source).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn the_previous_epoch_is_valid_and_the_one_before_is_stale() {
        for source in sources() {
            let token = KEYS.seal(source);
            let at = |epoch| TokenKeys { epoch, ..KEYS }.check(token, source);
            assert_eq!(at(8), Ok(()));
            assert_eq!(at(9), Err(TokenError::Stale));
            assert_eq!(at(6), Err(TokenError::Stale));
        }
    }

    /// Epochs two apart share a key; a token must not come back to life when the epoch counter has gone around, nor may
    /// its epoch be raised.
    #[test]
    fn the_epoch_is_part_of_what_is_proven() {
        let source = SourceAddress::v4([192, 0, 2, 1]);
        let token = KEYS.seal(source);
        let raised = token & MAC_MASK | 9 << MAC_BITS;
        let later = TokenKeys { epoch: 9, ..KEYS };
        assert_eq!(later.check(raised, source), Err(TokenError::Forged));
    }

    proptest! {
        #[test]
        fn a_token_is_worth_nothing_at_another_address(a: [u8; 4], b: [u8; 4], c: [u8; 16]) {
            let token = KEYS.seal(SourceAddress::v4(a));
            prop_assert_eq!(KEYS.check(token, SourceAddress::v4(b)).is_ok(), a == b);
            prop_assert_eq!(KEYS.check(token, SourceAddress::v6(c)), Err(TokenError::Forged));
        }

        #[test]
        fn checks_what_it_sealed(a: [u8; 16], epoch: u8) {
            let keys = TokenKeys { epoch, ..KEYS };
            prop_assert_eq!(keys.check(keys.seal(SourceAddress::v6(a)), SourceAddress::v6(a)), Ok(()));
        }
    }
}
