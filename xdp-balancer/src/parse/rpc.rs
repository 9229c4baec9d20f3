//! The RPC header of a datagram for a VIP: a request that may be routed, or why not.

use ebpf_common::wire::{self, HeaderError, Kind, RpcHeader};

use super::{
    Headers, Packet,
    transport::{UDP_HEADER_LEN, UdpHeader},
};
use crate::{DropReason, Refusal, Stop};

/// Bytes of the header.
pub const HEADER_LEN: u32 = wire::HEADER_LEN as u32;

/// Reads the RPC header of a packet that may be routed.
///
/// # Errors
/// Dropped: what is not our protocol, or a kind that a VIP does not take; answering those would make us a
/// reflector, or start a quarrel of two machines. Refused, with an answer: a request that is malformed.
#[inline(always)]
pub fn request<P: Packet>(packet: &P, headers: &Headers) -> Result<RpcHeader, Stop> {
    let payload_len = payload_len(packet, headers)?;
    let words: [u64; 8] = packet
        .read(offset(headers))
        .ok_or(Stop::Drop(DropReason::TruncatedRpc))?;
    match RpcHeader::from_words(words, payload_len) {
        Ok(header) if header.kind.is_routable() => Ok(header),
        Ok(_) => Err(Stop::Drop(DropReason::UnexpectedKind)),
        Err(error) => Err(stop_for(error, words)),
    }
}

/// Where the RPC header begins in the frame.
#[inline(always)]
pub(crate) const fn offset(headers: &Headers) -> u32 {
    headers.network.payload_offset + UDP_HEADER_LEN
}

/// Bytes of payload behind the RPC header, which the frame holds whole.
///
/// # Errors
/// Dropped: the datagram is too short, or its lengths contradict each other.
#[inline(always)]
pub(crate) fn payload_len<P: Packet>(packet: &P, headers: &Headers) -> Result<u32, Stop> {
    let network = &headers.network;
    let truncated = Stop::Drop(if network.is_fragment {
        DropReason::IpFragment
    } else {
        DropReason::TruncatedRpc
    });
    let udp: UdpHeader = packet.read(network.payload_offset).ok_or(truncated)?;
    let udp_len = u32::from(udp.len.get());
    // Stricter than RFC 768: bytes between the end of UDP's and of IP's length would be read by nobody. Of a packet in
    // fragments this one holds the beginning.
    let fits = if network.is_fragment {
        udp_len > network.payload_len
    } else {
        udp_len == network.payload_len
    };
    if !fits {
        return Err(Stop::Drop(DropReason::BadUdpLength));
    }
    if network.payload_len < UDP_HEADER_LEN + HEADER_LEN {
        return Err(truncated);
    }
    Ok(udp_len - UDP_HEADER_LEN - HEADER_LEN)
}

/// What becomes of a header with `error`. The kind decides before any other fault: it stands at the same
/// place in every version, and an ERROR must not be answered with an ERROR whatever else is wrong with it.
#[inline(always)]
const fn stop_for(error: HeaderError, words: [u64; 8]) -> Stop {
    let refusal = match error {
        HeaderError::Magic => return Stop::Drop(DropReason::BadMagic),
        HeaderError::Kind => return Stop::Drop(DropReason::UnknownKind),
        HeaderError::Version => Refusal::Version,
        HeaderError::Flags => Refusal::Flags,
        HeaderError::HeaderLen => Refusal::HeaderLen,
        HeaderError::Fragment => Refusal::Fragment,
        HeaderError::Slot => Refusal::Slot,
        HeaderError::Length => Refusal::Length,
    };
    let [first, ..] = words;
    match Kind::from_code((u64::from_be(first) >> 32) as u8) {
        Some(kind) if kind.is_routable() => Stop::Refuse(refusal),
        Some(_) => Stop::Drop(DropReason::UnexpectedKind),
        None => Stop::Drop(DropReason::UnknownKind),
    }
}
