//! LOAD packets: a worker tells the balancers how busy it is; the XDP program takes it in itself.
//!
//! Each worker has a key of its own, made of the balancer's and its id ([`LoadKeys::of`]): whoever breaks into one can lie
//! about that one and no other.
//!
//! A LOAD packet is an RPC header without payload, whose fields say:
//!
//! | field | meaning |
//! |---|---|
//! | `request_id` | sequence number: higher in each packet, also over a restart of the worker |
//! | `function` | the worker's id |
//! | `session_id` | requests answered, ever |
//! | `budget_ms` | capacity: requests that it takes at a time |
//! | `route_cookie` | requests received, ever |
//! | `token` | key epoch (8 bits), then the first 56 bits of the SipHash-2-4 over the seven words before it, with the worker's key |

use crate::{
    hash::{SipKey, siphash24},
    ids::{FunctionId, WorkerId},
    wire::{Kind, RpcHeader},
};

const MAC_BITS: u32 = 56;

/// What a LOAD packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadReport {
    /// Who says it.
    pub worker: WorkerId,
    /// Higher in each report of the worker.
    pub sequence: u64,
    /// Requests received, ever.
    pub received: u64,
    /// Requests answered, ever.
    pub completed: u64,
    /// Requests that it takes at a time.
    pub capacity: u32,
}

/// A LOAD packet that was not made with the key of the worker that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadForged;

/// What the balancer makes every worker's key of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadKeys {
    /// The current epoch; the one before it is valid too.
    pub epoch: u8,
    /// By the parity of their epoch.
    pub roots: [SipKey; 2],
}

impl LoadKeys {
    /// The key of `worker` in `epoch`: SipHash-2-4 of its id and, in the bits above that, which half of the key it is.
    #[inline(always)]
    #[must_use]
    pub fn of(self, worker: WorkerId, epoch: u8) -> SipKey {
        let [even, odd] = self.roots;
        let root = if epoch & 1 == 0 { even } else { odd };
        let half = |half: u64| siphash24(root, &[(worker.0 as u64) | (half << 16)]);
        SipKey {
            k0: half(0),
            k1: half(1),
        }
    }

    /// Reads the packet whose parsed header is `header` and whose words, as they lie in memory, are `words`.
    ///
    /// # Errors
    /// [`LoadForged`], also for an epoch that is over.
    #[inline(always)]
    pub fn open(self, header: &RpcHeader, words: [u64; 8]) -> Result<LoadReport, LoadForged> {
        let claimed = (header.token >> MAC_BITS) as u8;
        if claimed != self.epoch && claimed != self.epoch.wrapping_sub(1) {
            return Err(LoadForged);
        }
        if header.function.0 > u16::MAX as u64 {
            return Err(LoadForged);
        }
        let worker = WorkerId(header.function.0 as u16);
        if token(claimed, self.of(worker, claimed), words) != header.token {
            return Err(LoadForged);
        }
        Ok(LoadReport {
            worker,
            sequence: header.request_id,
            received: header.route_cookie,
            completed: header.session_id,
            capacity: header.budget_ms,
        })
    }
}

impl LoadReport {
    /// Requests that it has received and not answered.
    #[inline(always)]
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        let in_flight = self.received.saturating_sub(self.completed);
        if in_flight > u32::MAX as u64 {
            u32::MAX
        } else {
            in_flight as u32
        }
    }

    /// The packet, sealed in `epoch` with the worker's key of that epoch.
    #[must_use]
    pub fn seal(&self, epoch: u8, key: SipKey) -> RpcHeader {
        let mut header = RpcHeader {
            kind: Kind::Load,
            session_id: self.completed,
            budget_ms: self.capacity,
            route_cookie: self.received,
            ..RpcHeader::request(FunctionId(u64::from(self.worker.0)), self.sequence)
        };
        header.token = token(epoch, key, header.to_words());
        header
    }
}

/// The token over the first seven of `words`, which lie as on the wire.
#[inline(always)]
fn token(epoch: u8, key: SipKey, words: [u64; 8]) -> u64 {
    let [w0, w1, w2, w3, w4, w5, w6, _] = words;
    let mac = siphash24(key, &[w0, w1, w2, w3, w4, w5, w6]);
    ((epoch as u64) << MAC_BITS) | (mac >> (64 - MAC_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::words_of;

    const KEYS: LoadKeys = LoadKeys {
        epoch: 7,
        roots: [SipKey { k0: 1, k1: 2 }, SipKey { k0: 3, k1: 4 }],
    };
    const REPORT: LoadReport = LoadReport {
        worker: WorkerId(7),
        sequence: 1 << 40,
        received: 105,
        completed: 100,
        capacity: 8,
    };

    fn open(bytes: &[u8; 64], epoch: u8) -> Option<LoadReport> {
        let (header, _) = RpcHeader::parse(bytes)?.ok()?;
        let keys = LoadKeys { epoch, ..KEYS };
        keys.open(&header, words_of(bytes)).ok()
    }

    #[test]
    fn opens_what_was_sealed_in_this_epoch_or_the_one_before() {
        let bytes = REPORT.seal(7, KEYS.of(REPORT.worker, 7)).emit();
        assert_eq!(open(&bytes, 7), Some(REPORT));
        assert_eq!(open(&bytes, 8), Some(REPORT));
        assert_eq!(open(&bytes, 9), None);
        assert_eq!(open(&bytes, 6), None);
        assert_eq!(REPORT.in_flight(), 5);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = REPORT.seal(7, KEYS.of(REPORT.worker, 7)).emit();
        for bit in 0..512 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&bytes, 7), None, "bit {bit}");
        }
    }

    #[test]
    fn a_worker_can_speak_for_itself_alone() {
        for worker in [0, 6, 8, 7 + 256, u16::MAX] {
            let key = KEYS.of(WorkerId(worker), 7);
            assert_eq!(open(&REPORT.seal(7, key).emit(), 7), None, "{worker}");
        }
        for root in KEYS.roots {
            assert_eq!(open(&REPORT.seal(7, root).emit(), 7), None);
        }
    }

    /// Made with a SipHash of Python's own: of 07 00 00 ... and 07 00 01 ..., keyed with 3 and 4.
    #[test]
    fn golden_key() {
        let key = SipKey {
            k0: 0x122f_e643_c218_9fb8,
            k1: 0xc76a_74a9_08e0_4d44,
        };
        assert_eq!(KEYS.of(WorkerId(7), 7), key);
    }
}
