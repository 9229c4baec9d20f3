//! Congestion that routers on the way to the worker have marked in the outer header is told to the inner packet
//! (RFC 6040, section 4.2), or its sender would never slow down.

use zerocopy::network_endian::U16;

use super::{BAD, Inner, NOT_REWRITTEN};
use crate::{Outcome, Packet, forward::Sum, parse::Family};

/// The two bits, and their values (RFC 3168, section 5).
const ECN_MASK: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// Where the checksum lies in an IPv4 header.
const IPV4_CHECKSUM_OFFSET: u32 = 10;

/// Marks `inner` with what the outer header's `traffic_class` says.
///
/// # Errors
/// Dropped: congestion is marked on a packet whose sender does not understand the mark.
#[inline(always)]
pub(super) fn mark<P: Packet>(
    packet: &mut P,
    inner: &Inner,
    traffic_class: u8,
) -> Result<(), Outcome> {
    let outer = traffic_class & ECN_MASK;
    let first: [u8; 2] = packet.read(inner.offset).ok_or(NOT_REWRITTEN)?;
    let [version, second] = first;
    let of_inner = match inner.family {
        Family::V4 => second & ECN_MASK,
        Family::V6 => second >> 4 & ECN_MASK,
    };
    let marked = match (of_inner, outer) {
        (NOT_ECT, CE) => return Err(BAD),
        (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => return Ok(()),
    };
    match inner.family {
        Family::V4 => {
            let marked = [version, second & !ECN_MASK | marked];
            mark_ipv4(packet, inner.offset, first, marked)
        }
        Family::V6 => {
            let marked = [version, second & !(ECN_MASK << 4) | marked << 4];
            packet.write(inner.offset, marked)
        }
    }
    .ok_or(NOT_REWRITTEN)
}

/// Writes the header's first two bytes and the checksum that makes up for it (RFC 1624, equation 3).
#[inline(always)]
fn mark_ipv4<P: Packet>(
    packet: &mut P,
    offset: u32,
    before: [u8; 2],
    after: [u8; 2],
) -> Option<()> {
    let checksum: [u8; 2] = packet.read(offset + IPV4_CHECKSUM_OFFSET)?;
    let word = |bytes| u32::from(u16::from_ne_bytes(bytes));
    let sum = Sum::ZERO.add([
        !word(checksum) & 0xffff,
        !word(before) & 0xffff,
        word(after),
    ]);
    packet.write(offset, after)?;
    packet.write(offset + IPV4_CHECKSUM_OFFSET, U16::from_bytes(sum.finish()))
}
