//! Turns a request into the ERROR packet that answers it, in the same frame: addresses and ports swapped,
//! a new header, no payload.
//!
//! The answer has no IPv4 options whatever the request had, so it is 106 bytes long, which every request that
//! gets this far is at least: it is never longer than what it answers.

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
        Headers,
        ethernet::{self, EthernetHeader},
        ipv4::{self, Ipv4Header},
        rpc,
        transport::{PROTOCOL_UDP, UDP_HEADER_LEN, UdpHeader},
    },
};

/// Bytes of an answer's frame.
pub const ANSWER_LEN: u32 = RPC_OFFSET + rpc::HEADER_LEN;
/// Hops an answer may take.
pub const ANSWER_TTL: u8 = 64;

const UDP_OFFSET: u32 = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
const RPC_OFFSET: u32 = UDP_OFFSET + UDP_HEADER_LEN;
const UDP_LEN: u16 = (UDP_HEADER_LEN + rpc::HEADER_LEN) as u16;
const IP_LEN: u16 = ipv4::HEADER_LEN as u16 + UDP_LEN;

/// Answers the request in `packet` with why it was refused.
#[inline(always)]
pub(crate) fn refuse<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    refusal: Refusal,
    _tables: &T,
) -> Outcome {
    match rewrite(packet, &arrival.headers, |request| {
        error_header(request, refusal)
    }) {
        Ok(()) => Outcome::Refused(refusal),
        Err(reason) => Outcome::Dropped(reason),
    }
}

/// Answers the request in `packet` with RETRY: its sender is to show `token`.
#[inline(always)]
pub(crate) fn retry<P: Packet, T: Tables>(
    packet: &mut P,
    arrival: &Arrival<'_>,
    token: u64,
    _tables: &T,
) -> Outcome {
    match rewrite(packet, &arrival.headers, |request| {
        retry_header(request, token)
    }) {
        Ok(()) => Outcome::Answered(Answer::Retry),
        Err(reason) => Outcome::Dropped(reason),
    }
}

#[inline(always)]
fn rewrite<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    answer: impl FnOnce([u64; 8]) -> RpcHeader,
) -> Result<(), DropReason> {
    // None of these can be cut off: the request was read from there.
    let cut_off = DropReason::NotRewritten;
    let ethernet: EthernetHeader = packet.read(0).ok_or(cut_off)?;
    let ip: Ipv4Header = packet.read(ethernet::HEADER_LEN).ok_or(cut_off)?;
    let udp: UdpHeader = packet.read(headers.network.payload_offset).ok_or(cut_off)?;
    let rpc_offset = headers.network.payload_offset + UDP_HEADER_LEN;
    let request: [u64; 8] = packet.read(rpc_offset).ok_or(cut_off)?;
    if !can_be_answered(&ip, &udp) {
        return Err(DropReason::BadSource);
    }

    let rpc = answer(request).to_words();
    let ip = ip_header(&ip);
    let udp = udp_header(&udp, &ip, rpc);
    packet.write(RPC_OFFSET, rpc).ok_or(cut_off)?;
    packet.write(UDP_OFFSET, udp).ok_or(cut_off)?;
    packet.write(ethernet::HEADER_LEN, ip).ok_or(cut_off)?;
    let macs = [ethernet.source, ethernet.destination];
    packet.write(0, macs).ok_or(cut_off)?;
    packet.cut(ANSWER_LEN).or(Err(cut_off))
}

/// Whether the source is one host and one port: not 0.0.0.0/8, not loopback, not multicast or broadcast
/// (RFC 1122, section 3.2.1.3), not port 0, which means "no answer wanted" (RFC 768).
#[inline(always)]
fn can_be_answered(ip: &Ipv4Header, udp: &UdpHeader) -> bool {
    let [network, ..] = ip.source;
    !matches!(network, 0 | 127 | 224..) && udp.source.get() != 0
}

/// The RPC header of the answer. Taken from the words and not from a parsed header, because some of the
/// requests that are answered do not parse.
#[inline(always)]
fn error_header(request: [u64; 8], refusal: Refusal) -> RpcHeader {
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
        status: refusal.status() as u16,
        budget_ms: refusal.retry_after_ms(),
        ..RpcHeader::request(FunctionId(function), request_id)
    }
}

/// The RETRY header: an ERROR's fields without a status, and the token.
#[inline(always)]
fn retry_header(request: [u64; 8], token: u64) -> RpcHeader {
    let error = error_header(request, Refusal::NoWorker);
    RpcHeader {
        kind: Kind::Retry,
        flags: error.flags | flags::HAS_TOKEN,
        status: 0,
        budget_ms: 0,
        token,
        ..error
    }
}

#[inline(always)]
fn ip_header(request: &Ipv4Header) -> Ipv4Header {
    let mut header = Ipv4Header {
        version_and_len: ipv4::VERSION_AND_LEN,
        service: 0,
        total_len: U16::new(IP_LEN),
        // Never fragmented, so it needs no identification (RFC 6864, section 4.1).
        identification: U16::ZERO,
        fragment: U16::new(ipv4::DONT_FRAGMENT),
        ttl: ANSWER_TTL,
        protocol: PROTOCOL_UDP,
        checksum: [0; 2],
        source: request.destination,
        destination: request.source,
    };
    header.checksum = Sum::ZERO.add::<5>(transmute!(header)).finish();
    header
}

#[inline(always)]
fn udp_header(request: &UdpHeader, ip: &Ipv4Header, rpc: [u64; 8]) -> UdpHeader {
    let mut header = UdpHeader {
        source: request.destination,
        destination: request.source,
        len: U16::new(UDP_LEN),
        checksum: [0; 2],
    };
    let [len_high, len_low] = UDP_LEN.to_be_bytes();
    let sum = Sum::ZERO
        .add([
            u32::from_ne_bytes(ip.source),
            u32::from_ne_bytes(ip.destination),
            u32::from_ne_bytes([0, PROTOCOL_UDP, len_high, len_low]),
        ])
        .add::<2>(transmute!(header))
        .add_wide(rpc)
        .finish();
    // 0 would mean "no checksum"; its other one's complement form means the same sum (RFC 768).
    header.checksum = if sum == [0; 2] { [0xff; 2] } else { sum };
    header
}
