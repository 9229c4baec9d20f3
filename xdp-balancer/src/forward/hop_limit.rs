//! The hop limit: lowered by one in every mode, so that a loop between balancers, or of a router, comes to an end.

use ebpf_common::maps::{Config, features};

use crate::{DropReason, Packet, parse::Family};

/// Where TTL, protocol and checksum lie in an IPv4 header (RFC 791).
const IPV4_TTL_OFFSET: u32 = 8;
/// Where next header and hop limit lie in an IPv6 header (RFC 8200).
const IPV6_NEXT_HEADER_OFFSET: u32 = 6;

/// Lowers the hop limit of the IP header at `offset`.
///
/// # Errors
/// Its hop limit is used up; the packet is as it was.
#[inline(always)]
pub(super) fn lower<P: Packet>(
    packet: &mut P,
    config: &Config,
    family: Family,
    offset: u32,
) -> Result<(), DropReason> {
    if config.has(features::KEEP_HOP_LIMIT) {
        return Ok(());
    }
    lower_in(packet, family, offset).ok_or(DropReason::NotRewritten)?
}

/// `None`: the header does not lie within the frame, which the parse stage has ruled out.
#[inline(always)]
fn lower_in<P: Packet>(
    packet: &mut P,
    family: Family,
    offset: u32,
) -> Option<Result<(), DropReason>> {
    let used_up = Some(Err(DropReason::HopLimit));
    match family {
        Family::V4 => {
            let offset = offset + IPV4_TTL_OFFSET;
            let word = u32::from_be_bytes(packet.read(offset)?);
            if word >> 24 <= 1 {
                return used_up;
            }
            packet.write(offset, lowered(word).to_be_bytes())?;
        }
        Family::V6 => {
            let offset = offset + IPV6_NEXT_HEADER_OFFSET;
            let [next_header, hop_limit]: [u8; 2] = packet.read(offset)?;
            if hop_limit <= 1 {
                return used_up;
            }
            packet.write(offset, [next_header, hop_limit - 1])?;
        }
    }
    Some(Ok(()))
}

/// TTL, protocol and checksum with a TTL lowered by one (at least 1 before), and the checksum that makes up for it.
///
/// RFC 1624, equation 3, for a word that gets less by 0x0100: HC' = ~(~HC + ~m + m') = HC + 0x0100 with an end-around
/// carry, but 0 where that would be 0xffff.
#[inline(always)]
const fn lowered(word: u32) -> u32 {
    let sum = (word & 0xffff) + 0x0100;
    let sum = (sum + (sum >= 0xffff) as u32) & 0xffff;
    (word & 0xffff_0000) - 0x0100_0000 + sum
}

#[cfg(test)]
mod tests {
    use super::lowered;

    /// The checksum by the sum over everything again: the rest of the header sums to `rest`.
    fn whole(ttl_and_protocol: u16, rest: u16) -> u16 {
        let sum = u32::from(ttl_and_protocol) + u32::from(rest);
        let sum = (sum & 0xffff) + (sum >> 16);
        !(((sum & 0xffff) + (sum >> 16)) as u16)
    }

    #[test]
    fn the_incremental_checksum_is_that_of_the_whole_header() {
        for ttl in 1_u16..=255 {
            for protocol in [0, 6, 17, 255] {
                // All of them, since the carry happens for few.
                for rest in 1..=u16::MAX {
                    let before = ttl << 8 | protocol;
                    let word = u32::from(before) << 16 | u32::from(whole(before, rest));
                    let after = before - 0x0100;
                    let expected = u32::from(after) << 16 | u32::from(whole(after, rest));
                    assert_eq!(lowered(word), expected, "{before:04x} {rest:04x}");
                }
            }
        }
    }
}
