//! Turns a request into the packet that answers it, in the same frame: addresses and ports swapped, a new RPC header, no
//! payload. The answer is an ERROR or a RETRY.
//!
//! VLAN tags stay as they are. The answer has no IPv4 options and no IPv6 extension headers, whatever the request had, so it
//! is as short as a request can be: it is never longer than what it answers.

use ebpf_common::{
    ids::{FunctionId, SlotId},
    limits::SLOTS,
    wire::{Kind, RpcHeader, flags},
};
use zerocopy::{network_endian::U16, transmute};

use super::checksum::Sum;
use crate::{
    Answer, DropReason, Outcome, Packet, Refusal, Tables,
    balance::Arrival,
    parse::{
        FRAME_MAX, Family, ethernet,
        ipv4::{self, Ipv4Header},
        ipv6, rpc,
        transport::{PROTOCOL_UDP, UDP_HEADER_LEN, UdpHeader},
    },
    police,
};

/// Hops an answer may take.
pub const ANSWER_HOPS: u8 = 64;

const UDP_LEN: u16 = (UDP_HEADER_LEN + rpc::HEADER_LEN) as u16;
/// Version 6, no traffic class, no flow label; length of the payload; UDP; hops (RFC 8200, section 3).
const IPV6_START: u64 =
    6 << 60 | (UDP_LEN as u64) << 16 | (PROTOCOL_UDP as u64) << 8 | ANSWER_HOPS as u64;

/// What a sub-program needs to write an answer.
struct Job {
    /// Where the IP header begins.
    offset: u32,
    /// Where the UDP header begins.
    udp_offset: u32,
    family: Family,
    /// Of an ERROR; 0 for RETRY.
    status: u16,
    /// Of an ERROR.
    retry_after_ms: u32,
    /// Of a RETRY.
    token: u64,
}

impl Job {
    #[inline(always)]
    const fn new(arrival: &Arrival<'_>) -> Self {
        let network = &arrival.headers.network;
        Self {
            offset: network.offset,
            udp_offset: network.payload_offset,
            family: network.family,
            status: 0,
            retry_after_ms: 0,
            token: 0,
        }
    }
}

/// Answers the request in `packet` with why it was refused, and after how long to try again.
#[inline(always)]
pub(crate) fn refuse<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    refusal: Refusal,
    tables: &T,
) -> Outcome {
    let retry_after_ms = match arrival.retry_after_ms.get() {
        0 => refusal.retry_after_ms(),
        known => known,
    };
    let job = Job {
        status: refusal.status() as u16,
        retry_after_ms,
        ..Job::new(arrival)
    };
    match rewrite(packet, &job, tables) {
        Ok(()) => Outcome::Refused(refusal),
        Err(reason) => Outcome::Dropped(reason),
    }
}

/// Answers the request in `packet` with RETRY: its sender is to show the token in it.
#[inline(always)]
pub(crate) fn retry<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    tables: &T,
) -> Outcome {
    let token = match police::token(packet, arrival) {
        Ok(token) => token,
        Err(reason) => return Outcome::Dropped(reason),
    };
    let job = Job {
        token,
        ..Job::new(arrival)
    };
    match rewrite(packet, &job, tables) {
        Ok(()) => Outcome::Answered(Answer::Retry),
        Err(reason) => Outcome::Dropped(reason),
    }
}

/// None of the reads and writes can fail: the request was read from there.
const CUT_OFF: DropReason = DropReason::NotRewritten;

/// A sub-program with a stack of its own: the headers of an answer are too much for that of the fast path.
#[inline(never)]
fn rewrite<P: Packet, T: Tables>(packet: &mut P, job: &Job, tables: &T) -> Result<(), DropReason> {
    // VERIFIER: the bounds are lost where the numbers were handed over in memory.
    let ip_offset = job.offset & ethernet::IP_OFFSET_MASK;
    let request_udp = job.udp_offset & (FRAME_MAX - 1);
    let udp: UdpHeader = packet.read(request_udp).ok_or(CUT_OFF)?;
    check_source(packet, job.family, ip_offset, &udp)?;
    police::answer(tables.config().ok_or(DropReason::NotConfigured)?, tables)?;
    // VERIFIER: a bound that LLVM, which knows it, would take away.
    let udp_offset = core::hint::black_box(ip_offset + ip_header_len(job.family)) & 0x7f;
    // From the back to the front: what the request's headers say is read before it is overwritten, as an answer's are
    // never longer.
    let sum = rpc(
        packet,
        job,
        request_udp + UDP_HEADER_LEN,
        udp_offset + UDP_HEADER_LEN,
    )?;
    let sum = match job.family {
        Family::V4 => ipv4(packet, ip_offset, sum)?,
        Family::V6 => ipv6(packet, ip_offset, sum)?,
    };
    packet
        .write(udp_offset, udp_header(&udp, sum))
        .ok_or(CUT_OFF)?;
    let [receiver, sender]: [[u8; 6]; 2] = packet.read(0).ok_or(CUT_OFF)?;
    packet.write(0, [sender, receiver]).ok_or(CUT_OFF)?;
    let len = udp_offset + UDP_HEADER_LEN + rpc::HEADER_LEN;
    packet.cut(len).or(Err(CUT_OFF))
}

#[inline(always)]
const fn ip_header_len(family: Family) -> u32 {
    match family {
        Family::V4 => ipv4::HEADER_LEN,
        Family::V6 => ipv6::HEADER_LEN,
    }
}

/// Whether the sender can be one that waits for an answer.
#[inline(always)]
fn check_source<P: Packet>(
    packet: &P,
    family: Family,
    offset: u32,
    udp: &UdpHeader,
) -> Result<(), DropReason> {
    let is_host = match family {
        // Not 0.0.0.0/8, not loopback, not multicast or broadcast (RFC 1122, section 3.2.1.3).
        Family::V4 => {
            let request: Ipv4Header = packet.read(offset).ok_or(CUT_OFF)?;
            let [network, ..] = request.source;
            !matches!(network, 0 | 127 | 224..)
        }
        // Not multicast; not unspecified, loopback, or one that stands for an IPv4 address (RFC 4291, sections 2.5 and 2.7).
        Family::V6 => {
            let [_, net]: [u64; 2] = packet.read(offset).ok_or(CUT_OFF)?;
            net != 0 && u64::from_be(net) >> 56 != 0xff
        }
    };
    // Port 0 means "no answer wanted" (RFC 768).
    if is_host && udp.source.get() != 0 {
        Ok(())
    } else {
        Err(DropReason::BadSource)
    }
}

/// Writes the RPC header at `to`, from that of the request at `from`; returns the sum over it.
#[inline(always)]
fn rpc<P: Packet>(packet: &mut P, job: &Job, from: u32, to: u32) -> Result<Sum, DropReason> {
    let request = packet.read(from).ok_or(CUT_OFF)?;
    let header = match job.status {
        0 => retry_header(request, job.token),
        status => error_header(request, status, job.retry_after_ms),
    };
    let words = header.to_words();
    packet.write(to, words).ok_or(CUT_OFF)?;
    Ok(Sum::ZERO.add_wide(words))
}

/// Writes IPv4's header; returns `sum` with its addresses.
#[inline(always)]
fn ipv4<P: Packet>(packet: &mut P, offset: u32, sum: Sum) -> Result<Sum, DropReason> {
    let request: Ipv4Header = packet.read(offset).ok_or(CUT_OFF)?;
    let header = ipv4_header(&request);
    packet.write(offset, header).ok_or(CUT_OFF)?;
    Ok(sum.add([
        u32::from_ne_bytes(header.source),
        u32::from_ne_bytes(header.destination),
    ]))
}

/// Writes IPv6's header; returns `sum` with its addresses.
#[inline(always)]
fn ipv6<P: Packet>(packet: &mut P, offset: u32, sum: Sum) -> Result<Sum, DropReason> {
    let [_, net, host, vip_net, vip_host]: [u64; 5] = packet.read(offset).ok_or(CUT_OFF)?;
    let header = [IPV6_START.to_be(), vip_net, vip_host, net, host];
    packet.write(offset, header).ok_or(CUT_OFF)?;
    Ok(sum.add_wide([net, host, vip_net, vip_host]))
}

/// The RPC header of an ERROR. Taken from the words and not from a parsed header, because some of the
/// requests that are answered do not parse.
#[inline(always)]
fn error_header(request: [u64; 8], status: u16, retry_after_ms: u32) -> RpcHeader {
    let [w0, request_id, function, session_id, w4, ..] = request.map(u64::from_be);
    let slot = SlotId((w4 >> 48) as u16);
    let mut echoed = (w0 >> 16) as u16 & (flags::HAS_SESSION | flags::HAS_SLOT);
    if u32::from(slot.0) >= SLOTS {
        // The answer must parse where the request did not.
        echoed &= !flags::HAS_SLOT;
    }
    RpcHeader {
        kind: Kind::Error,
        flags: flags::FIRST | flags::LAST | echoed,
        session_id,
        slot,
        status,
        budget_ms: retry_after_ms,
        ..RpcHeader::request(FunctionId(function), request_id)
    }
}

/// The RETRY header: an ERROR's fields without a status, and the token.
#[inline(always)]
fn retry_header(request: [u64; 8], token: u64) -> RpcHeader {
    let error = error_header(request, 0, 0);
    RpcHeader {
        kind: Kind::Retry,
        flags: error.flags | flags::HAS_TOKEN,
        token,
        ..error
    }
}

#[inline(always)]
fn ipv4_header(request: &Ipv4Header) -> Ipv4Header {
    let mut header = Ipv4Header {
        version_and_len: ipv4::VERSION_AND_LEN,
        service: 0,
        total_len: U16::new(ipv4::HEADER_LEN as u16 + UDP_LEN),
        // Never fragmented, so it needs no identification (RFC 6864, section 4.1).
        identification: U16::ZERO,
        fragment: U16::new(ipv4::DONT_FRAGMENT),
        ttl: ANSWER_HOPS,
        protocol: PROTOCOL_UDP,
        checksum: [0; 2],
        source: request.destination,
        destination: request.source,
    };
    header.checksum = Sum::ZERO.add::<5>(transmute!(header)).finish();
    header
}

/// `sum` is that over both addresses and the RPC header.
#[inline(always)]
fn udp_header(request: &UdpHeader, sum: Sum) -> UdpHeader {
    let mut header = UdpHeader {
        source: request.destination,
        destination: request.source,
        len: U16::new(UDP_LEN),
        checksum: [0; 2],
    };
    let [len_high, len_low] = UDP_LEN.to_be_bytes();
    // The pseudo headers of IPv4 and IPv6 have the same sum: 32 bits of length are 16 of them and a zero.
    let sum = sum
        .add([u32::from_ne_bytes([0, PROTOCOL_UDP, len_high, len_low])])
        .add::<2>(transmute!(header))
        .finish();
    // 0 would mean "no checksum"; its other one's complement form means the same sum (RFC 768; RFC 8200, section 8.1).
    header.checksum = if sum == [0; 2] { [0xff; 2] } else { sum };
    header
}
