//! Counts each packet: once as seen, once under what became of it; and by VIP, worker and function.

use ebpf_common::{ids::FunctionId, maps::Counter};

use crate::{Outcome, Tables, balance::Arrival, route::Placement};

/// Counts a packet that ended as `outcome`.
#[inline(always)]
pub(crate) fn count<T: Tables>(tables: &T, outcome: &Outcome) {
    tables.count(Counter::Packets);
    tables.count(outcome.counter());
}

/// Counts a packet for its VIP.
#[inline(always)]
pub(crate) fn vip<T: Tables>(tables: &T, arrival: &Arrival<'_>) {
    tables.count_vip(arrival.vip.vip_id, arrival.frame_len);
}

/// Counts a packet for the worker it is sent to.
#[inline(always)]
pub(crate) fn worker<T: Tables>(tables: &T, arrival: &Arrival<'_>, placement: &Placement<'_>) {
    tables.count_worker(placement.worker, arrival.frame_len);
}

/// Counts a packet for the function it calls.
#[inline(always)]
pub(crate) fn function<T: Tables>(tables: &T, function: FunctionId) {
    tables.count_function(function);
}
