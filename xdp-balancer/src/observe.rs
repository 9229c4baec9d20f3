//! Counts each packet: once as seen, once under what became of it.

use ebpf_common::maps::Counter;

use crate::{Outcome, Tables};

/// Counts a packet that ended as `outcome`.
#[inline(always)]
pub(crate) fn count<T: Tables>(tables: &T, outcome: &Outcome) {
    tables.count(Counter::Packets);
    tables.count(outcome.counter());
}
