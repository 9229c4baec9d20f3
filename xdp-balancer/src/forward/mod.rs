//! Carries out a decision: rewrites the frame for a worker, or into an answer to its sender.

mod answer;
mod checksum;
mod encap;
mod exit;
mod fib;
mod hop_limit;
mod l2;
mod outer;
mod too_big;

pub use answer::ANSWER_HOPS;
pub(crate) use answer::{refuse, retry};
pub(crate) use checksum::Sum;
use ebpf_common::maps::{ForwardMode, worker_flags};

use crate::{
    Answer, DropReason, NotOurs, Outcome, Packet, Tables, balance::Arrival, observe,
    route::Placement,
};

/// Sends the packet to the worker of `placement`, as the VIP's forwarding mode says.
#[inline(always)]
pub(crate) fn to_worker<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    placement: &Placement<'_>,
    tables: &T,
) -> Outcome {
    observe::noted_worker(tables, placement.worker);
    let rule = placement.rule.one_way(tables);
    let sent = match arrival.vip.forward() {
        ForwardMode::L2 if placement.info.flags & worker_flags::FIB == 0 => {
            l2::rewrite(packet, arrival, placement, tables)
        }
        mode => encap::rewrite(packet, arrival, placement, mode, tables),
    };
    // Only now: a request that is not sent must not look like load on its worker.
    if matches!(sent, Ok(_) | Err(Unsent::NoNeighbour)) {
        observe::worker(tables, arrival, placement);
        tables.count_sent(placement.worker, arrival.requests.get());
    }
    match sent {
        Ok(redirect) => Outcome::Routed { rule, redirect },
        Err(Unsent::Dropped(reason)) => Outcome::Dropped(reason),
        Err(Unsent::TooBig) => Outcome::Answered(Answer::TooBig),
        Err(Unsent::NoNeighbour) => Outcome::Passed(NotOurs::NoNeighbour),
    }
}

/// What becomes of a packet that is not sent to its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsent {
    /// It is dropped.
    Dropped(DropReason),
    /// It is an answer now: it was too long.
    TooBig,
    /// The kernel is to send it, who finds the next hop's MAC address by that.
    NoNeighbour,
}

impl From<DropReason> for Unsent {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Dropped(reason)
    }
}
