//! LOAD packets: a worker tells the balancers how busy it is; the XDP program takes it in itself.
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
//! | `token` | key epoch (8 bits), then the first 56 bits of the SipHash-2-4 over the seven words before it |

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

/// A LOAD packet that was not made with our key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadForged;

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

    /// The packet, sealed in `epoch` with its key.
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

    /// Reads the packet whose parsed header is `header` and whose words, as they lie in memory, are `words`. `epoch` is
    /// the current one; the one before it is valid too.
    ///
    /// # Errors
    /// [`LoadForged`], also for an epoch that is over.
    #[inline(always)]
    pub fn open(
        header: &RpcHeader,
        words: [u64; 8],
        epoch: u8,
        keys: [SipKey; 2],
    ) -> Result<Self, LoadForged> {
        let claimed = (header.token >> MAC_BITS) as u8;
        if claimed != epoch && claimed != epoch.wrapping_sub(1) {
            return Err(LoadForged);
        }
        let [even, odd] = keys;
        let key = if claimed & 1 == 0 { even } else { odd };
        if token(claimed, key, words) != header.token || header.function.0 > u16::MAX as u64 {
            return Err(LoadForged);
        }
        Ok(Self {
            worker: WorkerId(header.function.0 as u16),
            sequence: header.request_id,
            received: header.route_cookie,
            completed: header.session_id,
            capacity: header.budget_ms,
        })
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

    const KEYS: [SipKey; 2] = [SipKey { k0: 1, k1: 2 }, SipKey { k0: 3, k1: 4 }];
    const REPORT: LoadReport = LoadReport {
        worker: WorkerId(7),
        sequence: 1 << 40,
        received: 105,
        completed: 100,
        capacity: 8,
    };

    fn open(bytes: &[u8; 64], epoch: u8) -> Option<LoadReport> {
        let (header, _) = RpcHeader::parse(bytes)?.ok()?;
        LoadReport::open(&header, words_of(bytes), epoch, KEYS).ok()
    }

    #[test]
    fn opens_what_was_sealed_in_this_epoch_or_the_one_before() {
        let bytes = REPORT.seal(7, KEYS[1]).emit();
        assert_eq!(open(&bytes, 7), Some(REPORT));
        assert_eq!(open(&bytes, 8), Some(REPORT));
        assert_eq!(open(&bytes, 9), None);
        assert_eq!(open(&bytes, 6), None);
        assert_eq!(REPORT.in_flight(), 5);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = REPORT.seal(7, KEYS[1]).emit();
        for bit in 0..512 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&bytes, 7), None, "bit {bit}");
        }
    }
}
