//! A packet that is too long for the way to its worker: its sender is told how long it may be (RFC 1191, RFC 8201), as the
//! router in front of the tunnel that we are. The answer quotes the packet and is never longer than it.

use core::hint::black_box;

use zerocopy::{FromBytes, Immutable, IntoBytes, network_endian::U16, transmute};

use super::{
    checksum::Sum,
    encap::{MACS_LEN, MAX_LINK_LEN_MASK, TYPE_LEN},
};
use crate::{
    DropReason, Packet, Tables,
    parse::{
        FRAME_MAX,
        icmp::{HEADER_LEN as ICMP_LEN, PROTOCOL_ICMP, PROTOCOL_ICMPV6},
        ipv4::{self, Ipv4Header},
        ipv6,
    },
    police,
};

/// Hops an answer may take.
const HOPS: u8 = 64;
/// Bytes of the largest answer: RFC 1812, section 4.3.2.3; RFC 4443, section 2.4(c).
const MAX_IPV4_LEN: u32 = 576;
const MAX_IPV6_LEN: u32 = 1_280;
/// Bytes behind the quoted IP header that the sender needs to know whose packet it was (RFC 792).
const MIN_QUOTED_PAYLOAD: u32 = 8;
/// Bytes of the words that a quotation is whole in, so that it is summed at one look each.
const WORD_LEN: u32 = 8;
/// Internetwork control (RFC 1812, section 4.3.2.5).
const SERVICE: u8 = 0xc0;

/// ICMP's header: type, code, checksum, and the MTU in the lower half of the rest, or in all of it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    mtu: [u8; 4],
}

/// None of the reads and writes can fail: the packet was read from there.
const CUT_OFF: DropReason = DropReason::NotRewritten;

/// Turns the packet, of `len` bytes at `offset`, into the answer that it may have `mtu` bytes.
///
/// # Errors
/// Why it is dropped without one.
#[inline(never)]
pub(super) fn answer<P: Packet, T: Tables>(
    packet: &mut P,
    offset: u32,
    len: u32,
    mtu: u32,
    tables: &T,
) -> Result<(), DropReason> {
    // VERIFIER: the bounds are lost on the way here on some paths.
    let (offset, len) = (offset & MAX_LINK_LEN_MASK, len & (FRAME_MAX - 1));
    let [version, _]: [u8; 2] = packet.read(offset).ok_or(CUT_OFF)?;
    if version >> 4 == 4 {
        ipv4(packet, offset, len, mtu, tables)
    } else {
        ipv6(packet, offset, len, mtu, tables)
    }
}

#[inline(always)]
fn ipv4<P: Packet, T: Tables>(
    packet: &mut P,
    offset: u32,
    len: u32,
    mtu: u32,
    tables: &T,
) -> Result<(), DropReason> {
    let request: Ipv4Header = packet.read(offset).ok_or(CUT_OFF)?;
    let header_len = u32::from(request.version_and_len & 0x0f) * 4;
    let room = ipv4::HEADER_LEN + ICMP_LEN;
    let quoted = quoted(len, MAX_IPV4_LEN, room, header_len)?;
    // A router would send it on in fragments, of which only the first could be placed.
    if request.fragment.get() & ipv4::DONT_FRAGMENT == 0 {
        return Err(DropReason::TooBig);
    }
    // Not 0.0.0.0/8, not loopback, not multicast or broadcast (RFC 1122, section 3.2.1.3).
    let [network, ..] = request.source;
    if matches!(network, 0 | 127 | 224..) {
        return Err(DropReason::BadSource);
    }
    police::answer(tables.config().ok_or(DropReason::NotConfigured)?, tables)?;
    let mut header = Ipv4Header {
        version_and_len: ipv4::VERSION_AND_LEN,
        service: SERVICE,
        total_len: U16::new((room + quoted) as u16),
        identification: U16::ZERO,
        fragment: U16::new(ipv4::DONT_FRAGMENT),
        ttl: HOPS,
        protocol: PROTOCOL_ICMP,
        checksum: [0; 2],
        source: request.destination,
        destination: request.source,
    };
    header.checksum = Sum::ZERO.add::<5>(transmute!(header)).finish();
    let icmp = IcmpHeader {
        kind: 3,
        code: 4,
        checksum: [0; 2],
        mtu: mtu.to_be_bytes(),
    };
    let answer = Ipv4Answer {
        header: transmute!(header),
        icmp: icmp.sealed(sum(packet, offset, quoted)),
    };
    put_in_front(packet, offset, quoted, room, answer).ok_or(CUT_OFF)
}

#[inline(always)]
fn ipv6<P: Packet, T: Tables>(
    packet: &mut P,
    offset: u32,
    len: u32,
    mtu: u32,
    tables: &T,
) -> Result<(), DropReason> {
    let [_, client @ .., vip_high, vip_low]: [u64; 5] = packet.read(offset).ok_or(CUT_OFF)?;
    let [client_high, client_low] = client;
    let room = ipv6::HEADER_LEN + ICMP_LEN;
    let quoted = quoted(len, MAX_IPV6_LEN, room, ipv6::HEADER_LEN)?;
    // Not multicast; not unspecified, loopback, or one that stands for an IPv4 address (RFC 4291, sections 2.5 and 2.7).
    if client_high == 0 || u64::from_be(client_high) >> 56 == 0xff {
        return Err(DropReason::BadSource);
    }
    police::answer(tables.config().ok_or(DropReason::NotConfigured)?, tables)?;
    let payload_len = ICMP_LEN + quoted;
    let start =
        6 << 60 | u64::from(payload_len) << 16 | u64::from(PROTOCOL_ICMPV6) << 8 | u64::from(HOPS);
    let addresses = [vip_high, vip_low, client_high, client_low];
    let pseudo = sum(packet, offset, quoted)
        .add_wide(addresses)
        .add([payload_len.to_be(), u32::from(PROTOCOL_ICMPV6).to_be()]);
    let icmp = IcmpHeader {
        kind: 2,
        code: 0,
        checksum: [0; 2],
        mtu: mtu.to_be_bytes(),
    };
    let answer = Ipv6Answer {
        start: start.to_be(),
        addresses,
        icmp: icmp.sealed(pseudo),
    };
    put_in_front(packet, offset, quoted, room, answer).ok_or(CUT_OFF)
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Ipv4Answer {
    header: [u32; 5],
    icmp: [u32; 2],
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Ipv6Answer {
    start: u64,
    addresses: [u64; 4],
    icmp: [u32; 2],
}

impl IcmpHeader {
    /// The header with the checksum over itself and what sums to `rest`.
    #[inline(always)]
    fn sealed(mut self, rest: Sum) -> [u32; 2] {
        self.checksum = rest.add::<2>(transmute!(self)).finish();
        transmute!(self)
    }
}

/// Bytes of a packet of `len` bytes that are quoted behind `room` bytes of headers: as many as the longest answer holds, and
/// no more than make the answer as long as the packet; whole words.
///
/// # Errors
/// Not even the headers of the packet, the IP header of `header_len` bytes, can be quoted.
#[inline(always)]
const fn quoted(len: u32, longest: u32, room: u32, header_len: u32) -> Result<u32, DropReason> {
    let len = if len < longest { len } else { longest };
    let quoted = len.saturating_sub(room) / WORD_LEN * WORD_LEN;
    if quoted < header_len + MIN_QUOTED_PAYLOAD {
        return Err(DropReason::TooBig);
    }
    Ok(quoted)
}

/// The sum over `len` bytes, whole words, at `offset`; they lie within the frame.
///
/// A sub-program, because the verifier walks its loop step by step.
#[inline(never)]
fn sum<P: Packet>(packet: &P, offset: u32, len: u32) -> Sum {
    // VERIFIER: bounds are lost on the way here, and LLVM must not take the loop's own for needless.
    let (offset, len) = (offset & MAX_LINK_LEN_MASK, black_box(len));
    let mut sum = Sum::ZERO;
    for word in 0..MAX_IPV6_LEN / WORD_LEN {
        if word * WORD_LEN >= len {
            break;
        }
        let Some(word) = packet.read::<u64>(offset + word * WORD_LEN) else {
            break;
        };
        sum = sum.add_wide([word]);
    }
    sum
}

/// Cuts the packet at `offset` to what is quoted of it, puts `answer`, of `room` bytes, in front of that, and sends the frame
/// back to where it came from.
#[inline(always)]
fn put_in_front<P: Packet, A: IntoBytes + Immutable>(
    packet: &mut P,
    offset: u32,
    quoted: u32,
    room: u32,
    answer: A,
) -> Option<()> {
    // VERIFIER: `offset` may be 0 for all it knows.
    let type_offset = offset.wrapping_sub(TYPE_LEN) & MAX_LINK_LEN_MASK;
    let [receiver, sender]: [[u8; 6]; 2] = packet.read(0)?;
    let tags: [u32; 2] = packet.read(MACS_LEN)?;
    let ether_type: [u8; 2] = packet.read(type_offset)?;
    packet.cut(offset + quoted).ok()?;
    packet.grow(room).ok()?;
    packet.write(0, [sender, receiver])?;
    // Tags, or what is written over now.
    packet.write(MACS_LEN, tags)?;
    packet.write(type_offset, ether_type)?;
    packet.write(offset, answer)
}
