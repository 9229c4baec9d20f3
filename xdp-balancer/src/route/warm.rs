//! Rule 4: the less loaded of two workers, chosen by hash, that have a warm sandbox of the function
//! ("power of two choices", Mitzenmacher 2001). Two and not the best of all: loads are reports of a
//! moment ago, and everybody's best would be swamped before its next report.

use core::hint::black_box;

use ebpf_common::{
    hash::mix64,
    ids::WorkerId,
    limits::MAX_WARM,
    maps::{Counter, FunctionEntry, WorkerInfo},
    wire::RpcHeader,
};

use super::{Placement, for_new_work};
use crate::{Rule, Tables};

const _: () = assert!(
    MAX_WARM.is_power_of_two(),
    "places are masked with MAX_WARM - 1"
);

struct Candidate<'t> {
    worker: WorkerId,
    info: &'t WorkerInfo,
    in_flight: u32,
}

impl Candidate<'_> {
    /// Whether it has less in flight for its weight than `other`.
    #[inline(always)]
    fn is_less_loaded_than(&self, other: &Self) -> bool {
        let ours = u64::from(self.in_flight) * u64::from(other.info.weight);
        ours < u64::from(other.in_flight) * u64::from(self.info.weight)
    }
}

/// The placement, if one of the two takes new work and is below its cap.
#[inline(always)]
pub(super) fn place<'t, T: Tables>(
    request: &RpcHeader,
    function: &FunctionEntry,
    tables: &'t T,
) -> Option<Placement<'t>> {
    let warm_len = u32::from(function.warm_len).min(MAX_WARM as u32);
    if warm_len == 0 {
        return None;
    }
    let (first, second) = two_of(warm_len, request.request_id);
    let first = candidate(function, first, tables);
    let second = candidate(function, second, tables);
    let chosen = match (first, second) {
        (Some(first), Some(second)) if second.is_less_loaded_than(&first) => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    };
    let Some(chosen) = chosen else {
        tables.count(Counter::WarmFull);
        return None;
    };
    Some(Placement {
        rule: Rule::Warm,
        worker: chosen.worker,
        info: chosen.info,
    })
}

/// Two places below `len` (at least 1), different ones if there are two. The request id is random, chosen
/// by the client, and the same in a retransmission, which thus meets the same two.
#[inline(always)]
const fn two_of(len: u32, request_id: u64) -> (u32, u32) {
    let hash = mix64(request_id);
    let first = scale(hash as u32, len);
    // From 1 to len - 1 steps on, around the end.
    let second = first + 1 + scale((hash >> 32) as u32, len - 1);
    (first, if second >= len { second - len } else { second })
}

/// Maps a 32-bit hash to `0..len` evenly, without a division (0 for a `len` of 0).
#[inline(always)]
const fn scale(hash: u32, len: u32) -> u32 {
    ((hash as u64 * len as u64) >> 32) as u32
}

#[inline(always)]
fn candidate<'t, T: Tables>(
    function: &FunctionEntry,
    place: u32,
    tables: &'t T,
) -> Option<Candidate<'t>> {
    // VERIFIER (Linux 6.1; LLVM 22): LLVM proves that a scaled hash is below MAX_WARM and drops both the mask and
    // the bounds check, but 6.1 loses the bound at `mix64`'s xor ("unbounded memory access"). So LLVM must not see it.
    let place = black_box(place) as usize & (MAX_WARM - 1);
    let worker = WorkerId(*function.warm.get(place)?);
    let info = for_new_work(worker, tables)?;
    let load = tables.worker_load(worker)?;
    let in_flight = load.in_flight_now();
    (in_flight < info.cap_over(load.capacity)).then_some(Candidate {
        worker,
        info,
        in_flight,
    })
}
