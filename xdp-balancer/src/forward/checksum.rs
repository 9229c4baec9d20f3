//! The Internet checksum (RFC 1071). The one's complement sum does not depend on byte order: words are
//! added as they lie in memory, and the result is stored as it comes out.

/// A sum that is not folded yet. A frame's worth of 32-bit words cannot overflow it.
#[derive(Clone, Copy)]
pub(super) struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub(super) const ZERO: Self = Self(0);

    /// Adds 32-bit words.
    #[inline(always)]
    pub(super) fn add<const N: usize>(mut self, words: [u32; N]) -> Self {
        for word in words {
            self.0 += u64::from(word);
        }
        self
    }

    /// Adds 64-bit words.
    #[inline(always)]
    pub(super) fn add_wide<const N: usize>(mut self, words: [u64; N]) -> Self {
        for word in words {
            self.0 += (word & 0xffff_ffff) + (word >> 32);
        }
        self
    }

    /// The checksum's two bytes as they lie in the header.
    #[inline(always)]
    pub(super) const fn finish(self) -> [u8; 2] {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }
}
