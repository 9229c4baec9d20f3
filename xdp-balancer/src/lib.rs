//! The data plane: what becomes of one packet. parse → route → forward → observe.
//!
//! The same code runs in the kernel (`main.rs`, behind feature `program`) and on the host, where tests
//! run it over plain bytes and maps made of `BTreeMap`s. It sees the packet through [`Packet`] and the
//! BPF maps through [`Tables`]; both are implemented by the shell.
//!
//! Invariants: no panic and no allocation on any input; each packet is counted once as seen and once
//! under exactly one outcome; nothing that is addressed to a VIP but malformed is passed on; an answer is
//! never longer than what it answers, and only a request or a ping is ever answered.
//!
//! Deliberately absent: IPv6, VLAN tags (both pass), checks of the IPv4 and UDP checksums (the worker's
//! kernel makes them: a packet that is damaged on its way to us is not made whole here), the TTL (mode
//! `l2` is a hop on the link, not a router's), policy.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![warn(clippy::indexing_slicing, clippy::panic)]

pub mod forward;
mod observe;
pub mod parse;
pub mod route;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod verdict;

pub use parse::{CutError, Packet};
pub use tables::{SessionError, Tables};
pub use verdict::{DropReason, NotOurs, Outcome, RETRY_AFTER_MS, Refusal, Rule, Stop, Verdict};

/// Decides what becomes of `packet`, rewrites it for that, and counts it.
#[inline(always)]
pub fn balance<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let outcome = process(packet, tables);
    observe::count(tables, &outcome);
    outcome.verdict()
}

#[inline(always)]
fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Outcome {
    let datagram = match route::vip::admit(parse::datagram(packet), tables) {
        Ok(datagram) => datagram,
        Err(outcome) => return outcome,
    };
    let placement =
        parse::request(packet, &datagram).and_then(|request| route::route(&request, tables));
    match placement {
        Ok(placement) => forward::to_worker(packet, &placement, tables),
        Err(Stop::Drop(reason)) => Outcome::Dropped(reason),
        Err(Stop::Refuse(refusal)) => forward::answer(packet, &datagram, refusal),
    }
}

#[cfg(test)]
mod tests;
