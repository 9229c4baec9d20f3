//! The worker's side of encapsulation: takes off what the balancers have put around a packet, and leaves the packet to the
//! worker's own kernel, which needs no tunnel device for it.
//!
//! Only what comes from a balancer is taken off, and only what agrees with its frame; another packet is not touched. What is
//! encapsulated twice is dropped: taking both off would let a client in one tunnel speak for another.

mod congestion;
mod outer;

use ebpf_common::{maps::Counter, tunnel::GUE_PORT};
use zerocopy::network_endian::U16;

use self::outer::Outer;
use crate::{
    DropReason, NotOurs, Outcome, Packet, Tables, Verdict,
    parse::{
        Family,
        ethernet::{self, TYPE_IPV4, TYPE_IPV6},
        ipv4::{self, Ipv4Header},
        ipv6::{self, Ipv6Header},
        transport::{PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP, UdpHeader},
    },
};

/// Takes the encapsulation off `packet` if it is one of a balancer to this host, and counts it.
#[inline(always)]
pub fn decapsulate<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let outcome = match take_off(packet, tables) {
        Ok(()) => Outcome::Passed(NotOurs::Decapsulated),
        Err(outcome) => outcome,
    };
    tables.count(Counter::Packets);
    tables.count(outcome.counter());
    outcome.verdict()
}

/// Bytes of two MAC addresses, behind which VLAN tags or the EtherType lie.
const MACS_LEN: u32 = 12;
/// Bytes of an EtherType.
const TYPE_LEN: u32 = 2;

const UNTOUCHED: Outcome = Outcome::Passed(NotOurs::NotEncapsulated);
const BAD: Outcome = Outcome::Dropped(DropReason::DecapBad);
const NOT_REWRITTEN: Outcome = Outcome::Dropped(DropReason::NotRewritten);

#[inline(always)]
fn take_off<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<(), Outcome> {
    // Whatever else it is, it is the kernel's.
    let (family, link_len) = ethernet::parse(packet).or(Err(UNTOUCHED))?;
    let outer = Outer::read(packet, family, link_len).ok_or(UNTOUCHED)?;
    let row = tables
        .decap()
        .ok_or(Outcome::Dropped(DropReason::NotConfigured))?;
    if !outer.is_for(row) {
        return Err(UNTOUCHED);
    }
    let payload = outer.payload(packet).ok_or(UNTOUCHED)?;
    if !outer.is_from_balancer(row) {
        return Err(Outcome::Dropped(DropReason::DecapSource));
    }
    if payload.contradicts {
        return Err(BAD);
    }
    let inner = Inner::read(packet, payload.offset, payload.len).ok_or(BAD)?;
    if !payload.allows(inner.family) {
        return Err(BAD);
    }
    if inner.is_tunnel(packet).ok_or(BAD)? {
        return Err(Outcome::Dropped(DropReason::DecapNested));
    }
    congestion::mark(packet, &inner, outer.traffic_class)?;
    strip(packet, link_len, payload.offset - link_len, inner.family).ok_or(NOT_REWRITTEN)
}

/// The packet within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inner {
    family: Family,
    offset: u32,
    protocol: u8,
    /// Where the payload begins.
    payload_offset: u32,
    payload_len: u32,
}

impl Inner {
    /// The packet at `offset`, if it is whole and exactly `len` bytes long, as its frame says.
    #[inline(always)]
    fn read<P: Packet>(packet: &P, offset: u32, len: u32) -> Option<Self> {
        let [version_and_len, _]: [u8; 2] = packet.read(offset)?;
        match version_and_len >> 4 {
            4 => {
                let header: Ipv4Header = packet.read(offset)?;
                let header_len = u32::from(version_and_len & 0x0f) * 4;
                let total_len = u32::from(header.total_len.get());
                if header_len < ipv4::HEADER_LEN || total_len < header_len || total_len != len {
                    return None;
                }
                Some(Self {
                    family: Family::V4,
                    offset,
                    protocol: header.protocol,
                    payload_offset: offset + header_len,
                    payload_len: len - header_len,
                })
            }
            6 => {
                let header: Ipv6Header = packet.read(offset)?;
                if ipv6::HEADER_LEN + u32::from(header.payload_len.get()) != len {
                    return None;
                }
                Some(Self {
                    family: Family::V6,
                    offset,
                    protocol: header.next_header,
                    payload_offset: offset + ipv6::HEADER_LEN,
                    payload_len: len - ipv6::HEADER_LEN,
                })
            }
            _ => None,
        }
    }

    /// Whether it is a tunnel's packet itself; `None` if it is cut off.
    #[inline(always)]
    fn is_tunnel<P: Packet>(&self, packet: &P) -> Option<bool> {
        match self.protocol {
            PROTOCOL_IPV4 | PROTOCOL_IPV6 => Some(true),
            PROTOCOL_UDP if self.payload_len >= 8 => {
                let udp: UdpHeader = packet.read(self.payload_offset)?;
                Some(udp.destination.get() == GUE_PORT)
            }
            _ => Some(false),
        }
    }
}

/// Takes `bytes` bytes out from behind the frame's header, and says in it what follows now.
#[inline(always)]
fn strip<P: Packet>(packet: &mut P, link_len: u32, bytes: u32, family: Family) -> Option<()> {
    let macs: [u32; 3] = packet.read(0)?;
    // VLAN tags, or what comes behind.
    let [first, second]: [u32; 2] = packet.read(MACS_LEN)?;
    packet.strip(bytes).ok()?;
    packet.write(0, macs)?;
    if link_len > ethernet::HEADER_LEN {
        packet.write(MACS_LEN, first)?;
    }
    if link_len > ethernet::HEADER_LEN + ethernet::TAG_LEN {
        packet.write(MACS_LEN + ethernet::TAG_LEN, second)?;
    }
    let ether_type = match family {
        Family::V4 => TYPE_IPV4,
        Family::V6 => TYPE_IPV6,
    };
    // VERIFIER: `link_len` may be 0 for all it knows.
    let offset = link_len.wrapping_sub(TYPE_LEN) & ethernet::IP_OFFSET_MASK;
    packet.write(offset, U16::new(ether_type))
}
