//! Carries out a decision: rewrites the frame for a worker, or into an answer to its sender.

mod answer;
mod checksum;
mod encap;
mod exit;
mod hop_limit;
mod l2;
mod outer;

pub use answer::ANSWER_HOPS;
pub(crate) use answer::{refuse, retry};
use ebpf_common::maps::ForwardMode;

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
    let rule = placement.rule.one_way(tables);
    let redirect = match arrival.vip.forward() {
        ForwardMode::L2 => l2::rewrite(packet, arrival, placement, tables),
        mode => encap::rewrite(packet, arrival, placement, mode, tables),
    };
    match redirect {
        Ok(redirect) => Outcome::Routed { rule, redirect },
        Err(reason) => Outcome::Dropped(reason),
    }
}
