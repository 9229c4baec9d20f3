//! Hashes that program, client and worker must agree on: SipHash-2-4, CRC16 slots, a 64-bit mixer.

use crate::{ids::SlotId, limits::SLOTS};

/// A 128-bit SipHash key as two little-endian words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SipKey {
    /// Bytes 0 to 7.
    pub k0: u64,
    /// Bytes 8 to 15.
    pub k1: u64,
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012) of `8 * N` bytes, given as little-endian words.
///
/// Whole words only: it is what the data plane needs, and it lets the verifier see fixed loops.
#[inline(always)]
#[must_use]
pub fn siphash24<const N: usize>(key: SipKey, words: &[u64; N]) -> u64 {
    let mut state = [
        key.k0 ^ 0x736f_6d65_7073_6575,
        key.k1 ^ 0x646f_7261_6e64_6f6d,
        key.k0 ^ 0x6c79_6765_6e65_7261,
        key.k1 ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        absorb(&mut state, *word);
    }
    // The last block holds the length in its top byte and, as all words are whole, nothing else.
    absorb(&mut state, (N as u64 * 8) << 56);
    let [v0, v1, v2, v3] = &mut state;
    *v2 ^= 0xff;
    for _ in 0..4 {
        round(v0, v1, v2, v3);
    }
    *v0 ^ *v1 ^ *v2 ^ *v3
}

#[inline(always)]
fn absorb(state: &mut [u64; 4], word: u64) {
    let [v0, v1, v2, v3] = state;
    *v3 ^= word;
    round(v0, v1, v2, v3);
    round(v0, v1, v2, v3);
    *v0 ^= word;
}

#[inline(always)]
fn round(v0: &mut u64, v1: &mut u64, v2: &mut u64, v3: &mut u64) {
    *v0 = v0.wrapping_add(*v1);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v3);
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.wrapping_add(*v3);
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.wrapping_add(*v1);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v2 = v2.rotate_left(32);
}

/// A fast bijective mixer (MurmurHash3's 64-bit finaliser). Not keyed: use it to spread ids that
/// an attacker gains nothing by choosing, and SipHash otherwise.
#[inline(always)]
#[must_use]
pub const fn mix64(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Secret of [`table_hash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSecret(pub [u64; 2]);

/// Where something stands in a table, and what it is recognised by there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableHash {
    /// Chooses the row.
    pub row: u32,
    /// Compared within the row; independent of `row`.
    pub fingerprint: u64,
}

/// Hashes two words with a secret, for tables whose hashes nobody sees: without the secret, keys that meet in one row
/// cannot be chosen. Two rounds of [`mix64`] and not SipHash, at a quarter of its cost, because an attacker who cannot
/// observe a hash cannot solve for the secret either.
#[inline(always)]
#[must_use]
pub const fn table_hash(secret: TableSecret, a: u64, b: u64) -> TableHash {
    let [k0, k1] = secret.0;
    let first = mix64(a ^ k0).wrapping_add(b ^ k1);
    let second = mix64(first);
    TableHash {
        row: second as u32,
        // The row takes the low bits of the mixed word; this is another bijection of the same word.
        fingerprint: mix64(second ^ k0),
    }
}

/// CRC16 of Redis Cluster (XMODEM: polynomial 0x1021, initial value 0, not reflected).
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let index = ((crc >> 8) ^ u16::from(*byte)) & 0xff;
        // `index` is masked to the table's length, so the lookup cannot fail.
        (crc << 8) ^ CRC16_TABLE.get(usize::from(index)).copied().unwrap_or(0)
    })
}

/// One byte more of a [`crc16`], without its table: by halves of the byte, in registers.
#[inline(always)]
#[must_use]
pub const fn crc16_step(crc: u16, byte: u8) -> u16 {
    // The polynomial is x^16 + x^12 + x^5 + 1: of a byte that leaves the top, x, these are the products by shifts.
    let x = (crc >> 8) ^ byte as u16;
    let x = x ^ (x >> 4);
    (crc << 8) ^ (x << 12) ^ (x << 5) ^ x
}

/// The slot of `key`, exactly as Redis Cluster computes it: if the key holds a `{` and, behind it, a
/// `}` with at least one byte between them, only those bytes are hashed (the "hash tag").
#[must_use]
pub fn slot_of_key(key: &[u8]) -> SlotId {
    SlotId(crc16(hash_tag(key).unwrap_or(key)) & (SLOTS - 1) as u16)
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = key.get(open + 1..)?;
    let close = rest.iter().position(|byte| *byte == b'}')?;
    rest.get(..close).filter(|tag| !tag.is_empty())
}

const CRC16_TABLE: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

const _: () = assert!(SLOTS.is_power_of_two());

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn siphash_agrees_with_the_siphasher_crate(k0: u64, k1: u64, words: [u64; 3]) {
            let mut peer = siphasher::sip::SipHasher24::new_with_keys(k0, k1);
            for word in words {
                peer.write(&word.to_le_bytes());
            }
            prop_assert_eq!(siphash24(SipKey { k0, k1 }, &words), peer.finish());
        }

        #[test]
        fn crc16_agrees_with_the_crc_crate(bytes: Vec<u8>) {
            let peer = crc::Crc::<u16>::new(&crc::CRC_16_XMODEM);
            prop_assert_eq!(crc16(&bytes), peer.checksum(&bytes));
        }

        #[test]
        fn crc16_by_steps_is_crc16(bytes: Vec<u8>) {
            let by_steps = bytes.iter().fold(0, |crc, byte| crc16_step(crc, *byte));
            prop_assert_eq!(by_steps, crc16(&bytes));
        }

        #[test]
        fn slot_is_in_range_for_any_key(key: Vec<u8>) {
            prop_assert!(u32::from(slot_of_key(&key).0) < SLOTS);
        }
    }

    #[test]
    fn siphash_of_the_papers_own_vector() {
        // Appendix A uses 15 bytes; this is vector 16 of the reference implementation (bytes 0..16).
        let key = SipKey {
            k0: 0x0706_0504_0302_0100,
            k1: 0x0f0e_0d0c_0b0a_0908,
        };
        let words = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(
            siphash24(key, &words).to_le_bytes(),
            [0xdb, 0x9b, 0xc2, 0x57, 0x7f, 0xcc, 0x2a, 0x3f]
        );
    }

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // Values of `CLUSTER KEYSLOT` on Redis 7.0.15; the first is in the cluster specification.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [
            ("foo", 12_182),
            ("bar", 5_061),
            ("hello", 866),
            ("", 0),
            ("{}", 15_257),
        ] {
            assert_eq!(slot_of_key(key.as_bytes()), SlotId(slot), "{key}");
        }
    }

    #[test]
    fn hash_tags_follow_the_cluster_specification() {
        let slot = |key: &str| slot_of_key(key.as_bytes());
        assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
        assert_eq!(slot("foo{bar}{zap}"), slot("bar"));
        assert_eq!(slot("foo{{bar}}zap"), slot("{bar"));
        assert_eq!(slot("foo{}{bar}"), SlotId(crc16(b"foo{}{bar}") & 0x3fff));
        assert_eq!(slot("foo{bar"), SlotId(crc16(b"foo{bar") & 0x3fff));
    }
}
