//! Whether a packet may take up a worker's time. Questions, in the order in which their answers become known: may the
//! source send at all ([`source`]), is it who it says ([`address`]), may the function be called ([`function`]; behind
//! [`address`], so that nobody uses up a function's rate in another's name), can the worker take it ([`shed`]), may
//! what is refused be answered ([`answer`]), and may a new flow push out the memory of another ([`eviction`]).
//!
//! Each part is behind a bit of `Config::features` and costs an array row or two; a table that can grow is only asked
//! behind a filter. Time is the coarse clock's (see [`ebpf_common::maps::CLOCK_TICK_NS`]).

mod address;
mod answer;
mod block;
mod eviction;
mod function;
mod overload;
mod source;

use core::cell::Cell;

pub(crate) use address::{check as address, token};
pub(crate) use answer::check as answer;
use ebpf_common::{
    maps::{Rate, features},
    token::SourceAddress,
};
pub(crate) use eviction::check as eviction;
pub(crate) use function::check as function;
pub(crate) use overload::check as shed;

use crate::{
    DropReason, Packet, Tables,
    balance::Arrival,
    parse::{Family, Network},
};

/// Block lists and the source's rate.
///
/// # Errors
/// Dropped, never answered: a source may be forged.
#[inline(always)]
pub(crate) fn source<P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    tables: &T,
) -> Result<(), DropReason> {
    if arrival.config.features & (features::BLOCK_LIST | features::SOURCE_RATE) == 0 {
        return Ok(());
    }
    let source = source_address(packet, &arrival.headers.network)?;
    block::check(source, arrival, tables)?;
    source::check(source, arrival, tables)
}

/// The source of an IP header, which was read before.
#[inline(always)]
fn source_address<P: Packet>(packet: &P, network: &Network) -> Result<SourceAddress, DropReason> {
    let address = match network.family {
        // Behind time to live, protocol and checksum (RFC 791, section 3.1).
        Family::V4 => packet.read(network.offset + 12).map(SourceAddress::from_v4),
        // Behind version, length, next header and hop limit (RFC 8200, section 3).
        Family::V6 => packet.read(network.offset + 8).map(SourceAddress::from_v6),
    };
    address.ok_or(DropReason::TruncatedIp)
}

/// Takes one from `bucket`, if `rate` admits it at `now_ns`.
#[inline(always)]
fn take(bucket: &Cell<u64>, rate: &Rate, now_ns: u64) -> bool {
    let before = bucket.get();
    let mut next_ns = before;
    let is_admitted = rate.admits(&mut next_ns, now_ns);
    // What is refused mostly changes nothing: the line then stays in the caches of all CPUs.
    if next_ns != before {
        bucket.set(next_ns);
    }
    is_admitted
}
