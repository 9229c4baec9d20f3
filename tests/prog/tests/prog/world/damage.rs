//! Faults in frames.

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use xdp_balancer::testing::frame::Frame;

/// Where the headers of a frame begin.
pub(super) struct Spots {
    ip: usize,
    transport: usize,
    rpc: usize,
    is_v4: bool,
}

impl Spots {
    pub(super) fn of(frame: &Frame) -> Self {
        Self {
            ip: frame.ip_offset(),
            transport: frame.transport_offset(),
            rpc: frame.rpc_offset(),
            is_v4: frame.source.is_ipv4(),
        }
    }

    /// The field with the length of the IP packet.
    const fn ip_len(&self) -> usize {
        self.ip + if self.is_v4 { 2 } else { 4 }
    }

    /// Bytes of the IP header that decide much: version and length, fragment, protocol, the destination's end.
    const fn telling(&self) -> [usize; 5] {
        if self.is_v4 {
            let ip = self.ip;
            [ip, ip + 6, ip + 7, ip + 9, ip + 19]
        } else {
            // Version, next header, the destination's end, and of the first extension header next header and length.
            let ip = self.ip;
            [ip, ip + 6, ip + 39, ip + 40, ip + 41]
        }
    }
}

/// One to four faults, most of them in the headers.
pub(super) fn damage(bytes: &mut Vec<u8>, spots: &Spots, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..=4) {
        match rng.random_range(0..16) {
            0 => bytes.truncate(rng.random_range(14..=bytes.len())),
            1 => bytes.extend(std::iter::repeat_n(0xee, rng.random_range(1..60))),
            2 => step(bytes, spots.ip_len(), rng),
            3 => step(bytes, spots.transport + 4, rng),
            4 => step(bytes, spots.rpc + 46, rng),
            5 => poke(bytes, *spots.telling().choose(rng).unwrap(), rng),
            // EtherTypes.
            6 => poke(
                bytes,
                12 + 4 * rng.random_range(0..3) + rng.random_range(0..2),
                rng,
            ),
            7..9 => poke(
                bytes,
                rng.random_range(spots.ip..spots.transport.max(spots.ip + 1)),
                rng,
            ),
            9 => poke(bytes, spots.transport + rng.random_range(0..20), rng),
            10..14 => poke(bytes, spots.rpc + rng.random_range(0..64), rng),
            _ => poke(bytes, rng.random_range(0..160), rng),
        }
    }
}

/// Sets one byte to anything, or flips one of its bits.
fn poke(bytes: &mut [u8], at: usize, rng: &mut StdRng) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = if rng.random() {
            rng.random()
        } else {
            *byte ^ (1 << rng.random_range(0..8))
        };
    }
}

/// Moves a 16-bit length by a little: the lies that are nearly true.
fn step(bytes: &mut [u8], at: usize, rng: &mut StdRng) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        let value = u16::from_be_bytes([field[0], field[1]]);
        let moved = value.wrapping_add_signed(rng.random_range(-70..70));
        field.copy_from_slice(&moved.to_be_bytes());
    }
}
