//! `DECAP`: what a worker's own XDP program takes the encapsulation off. Addresses and masks are words as they lie in a
//! packet.

use crate::map_type::map_type;

/// Addresses of each family that a worker can be reached at by encapsulated packets.
pub const DECAP_ADDRESSES: usize = 4;
/// Prefixes of each family that encapsulated packets may come from.
pub const DECAP_SOURCES: usize = 8;

map_type! {
    /// An IPv4 prefix; none if all bits of the mask are zero.
    Prefix4, 8 {
        /// The address; bits beyond the mask are of no meaning.
        addr: u32,
        /// Ones where an address must agree.
        mask: u32,
    }
}

map_type! {
    /// An IPv6 prefix; none if all bits of the mask are zero.
    Prefix6, 32 {
        /// The address; bits beyond the mask are of no meaning.
        addr: [u64; 2],
        /// Ones where an address must agree.
        mask: [u64; 2],
    }
}

map_type! {
    /// The one row of the `DECAP` map. A row of zeros takes nothing off.
    DecapRow, 400 {
        /// IPv6 addresses of this host; zeros for none.
        local6: [[u64; 2]; DECAP_ADDRESSES],
        /// Where encapsulated packets of IPv6 may come from.
        sources6: [Prefix6; DECAP_SOURCES],
        /// IPv4 addresses of this host; zeros for none.
        local4: [u32; DECAP_ADDRESSES],
        /// Where encapsulated packets of IPv4 may come from.
        sources4: [Prefix4; DECAP_SOURCES],
    }
}

impl Prefix4 {
    /// No prefix.
    pub const NONE: Self = Self { addr: 0, mask: 0 };

    /// The prefix of the first `len` bits of `addr`; none for a `len` of 0, which would be everybody.
    #[must_use]
    pub const fn new(addr: [u8; 4], len: u8) -> Self {
        let mask = match len {
            0 => 0,
            1..32 => u32::MAX << (32 - len),
            _ => u32::MAX,
        };
        Self {
            addr: u32::from_ne_bytes(addr),
            mask: mask.to_be(),
        }
    }

    /// Whether `addr` lies within.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, addr: u32) -> bool {
        self.mask != 0 && (addr ^ self.addr) & self.mask == 0
    }
}

impl Prefix6 {
    /// No prefix.
    pub const NONE: Self = Self {
        addr: [0; 2],
        mask: [0; 2],
    };

    /// The prefix of the first `len` bits of `addr`; none for a `len` of 0, which would be everybody.
    #[must_use]
    pub const fn new(addr: [u8; 16], len: u8) -> Self {
        let mask = match len {
            0 => 0,
            1..128 => u128::MAX << (128 - len),
            _ => u128::MAX,
        };
        Self {
            addr: words(addr),
            mask: words(mask.to_be_bytes()),
        }
    }

    /// Whether `addr` lies within.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, addr: [u64; 2]) -> bool {
        let [high, low] = addr;
        let [our_high, our_low] = self.addr;
        let [mask_high, mask_low] = self.mask;
        mask_high != 0 && ((high ^ our_high) & mask_high) | ((low ^ our_low) & mask_low) == 0
    }
}

impl DecapRow {
    /// Takes nothing off.
    pub const ZERO: Self = Self {
        local6: [[0; 2]; DECAP_ADDRESSES],
        sources6: [Prefix6::NONE; DECAP_SOURCES],
        local4: [0; DECAP_ADDRESSES],
        sources4: [Prefix4::NONE; DECAP_SOURCES],
    };

    /// Whether `addr` is an address of this host.
    #[inline(always)]
    #[must_use]
    pub fn is_local4(&self, addr: u32) -> bool {
        addr != 0 && self.local4.contains(&addr)
    }

    /// Whether `addr` is an address of this host.
    #[inline(always)]
    #[must_use]
    pub fn is_local6(&self, addr: [u64; 2]) -> bool {
        addr != [0; 2] && self.local6.contains(&addr)
    }

    /// Whether encapsulated packets may come from `addr`.
    #[inline(always)]
    #[must_use]
    pub fn accepts4(&self, addr: u32) -> bool {
        self.sources4.iter().any(|prefix| prefix.contains(addr))
    }

    /// Whether encapsulated packets may come from `addr`.
    #[inline(always)]
    #[must_use]
    pub fn accepts6(&self, addr: [u64; 2]) -> bool {
        self.sources6.iter().any(|prefix| prefix.contains(addr))
    }
}

/// The two words of an address as they lie in a packet.
#[must_use]
pub const fn words(addr: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr;
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_its_own_and_no_others() {
        let of = |addr| u32::from_ne_bytes(addr);
        for len in 1..=32_u8 {
            let prefix = Prefix4::new([172, 16, 5, 9], len);
            for bit in 0..32 {
                let other = u32::from_be_bytes([172, 16, 5, 9]) ^ (1 << (31 - bit));
                let inside = bit >= u32::from(len);
                assert_eq!(
                    prefix.contains(of(other.to_be_bytes())),
                    inside,
                    "/{len}, bit {bit}"
                );
            }
        }
        for len in 1..=128_u8 {
            let prefix = Prefix6::new([0xfd; 16], len);
            for bit in 0..128 {
                let other = u128::from_be_bytes([0xfd; 16]) ^ (1 << (127 - bit));
                let inside = bit >= u32::from(len);
                assert_eq!(
                    prefix.contains(words(other.to_be_bytes())),
                    inside,
                    "/{len}, bit {bit}"
                );
            }
        }
    }

    #[test]
    fn everybody_is_no_prefix() {
        assert_eq!(Prefix4::new([10, 0, 0, 1], 0).mask, 0);
        assert!(!Prefix4::new([10, 0, 0, 1], 0).contains(0));
        assert!(!Prefix6::new([0; 16], 0).contains([0; 2]));
        assert!(!DecapRow::ZERO.is_local4(0) && !DecapRow::ZERO.accepts4(0));
        assert!(!DecapRow::ZERO.is_local6([0; 2]) && !DecapRow::ZERO.accepts6([0; 2]));
    }
}
