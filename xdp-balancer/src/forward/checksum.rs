//! The Internet checksum (RFC 1071). The one's complement sum does not depend on byte order: words are
//! added as they lie in memory, and the result is stored as it comes out.

/// A sum that is not folded yet, of fewer than 65,535 32-bit words: a frame has far fewer.
#[derive(Clone, Copy)]
pub(crate) struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub(crate) const ZERO: Self = Self(0);

    /// Adds 32-bit words.
    #[inline(always)]
    pub(crate) fn add<const N: usize>(mut self, words: [u32; N]) -> Self {
        for word in words {
            self.0 += u64::from(word);
        }
        self
    }

    /// Adds 64-bit words.
    #[inline(always)]
    pub(crate) fn add_wide<const N: usize>(mut self, words: [u64; N]) -> Self {
        for word in words {
            self.0 += (word & 0xffff_ffff) + (word >> 32);
        }
        self
    }

    /// The checksum's two bytes as they lie in the header.
    #[inline(always)]
    pub(crate) const fn finish(self) -> [u8; 2] {
        // At most 0x1_0000_fffd, then 0x1_fffe, then 0xffff: no carry is left.
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edge_or_any() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), Just(0xffff_ffff), any::<u64>()]
    }

    proptest! {
        #[test]
        fn agrees_with_etherparse(wide in prop::array::uniform8(edge_or_any()), narrow: [u32; 5]) {
            let ours = Sum::ZERO.add(narrow).add_wide(wide).finish();
            let mut peer = etherparse::checksum::Sum16BitWords::new();
            for word in narrow {
                peer = peer.add_4bytes(word.to_ne_bytes());
            }
            for word in wide {
                peer = peer.add_8bytes(word.to_ne_bytes());
            }
            prop_assert_eq!(u16::from_ne_bytes(ours), peer.ones_complement());
        }
    }
}
