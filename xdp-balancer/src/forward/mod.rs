//! Carries out a decision: rewrites the frame for a worker, or into an answer to its sender.

mod answer;
mod checksum;
mod l2;

pub use answer::{ANSWER_LEN, ANSWER_TTL};
pub(crate) use answer::{refuse, retry};

use crate::{Outcome, Packet, Tables, balance::Arrival, observe, route::Placement};

/// Sends the packet to the worker of `placement`, as the VIP's forwarding mode says.
#[inline(always)]
pub(crate) fn to_worker<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    placement: &Placement<'_>,
    tables: &T,
) -> Outcome {
    observe::worker(tables, arrival, placement);
    l2::send(packet, placement, tables)
}
