//! The RPC header of a datagram for a VIP: a request that may be routed, or why not.

use ebpf_common::wire::{self, HeaderError, Kind, RpcHeader};

use super::{Datagram, Packet, udp};
use crate::{DropReason, Refusal, Stop};

/// Bytes of the header.
pub const HEADER_LEN: u32 = wire::HEADER_LEN as u32;

/// Reads the RPC header of `datagram`.
///
/// # Errors
/// Dropped: what is not our protocol, or a kind that a VIP does not take; answering those would make us a
/// reflector, or start a quarrel of two machines. Refused, with an answer: a request that is malformed.
#[inline(always)]
pub fn request<P: Packet>(packet: &P, datagram: &Datagram) -> Result<RpcHeader, Stop> {
    // Stricter than RFC 768: bytes between the end of UDP's and of IPv4's length would be read by nobody.
    if datagram.udp_len != datagram.ip_payload_len {
        return Err(Stop::Drop(DropReason::BadUdpLength));
    }
    let truncated = Stop::Drop(DropReason::TruncatedRpc);
    if datagram.udp_len < udp::HEADER_LEN + HEADER_LEN {
        return Err(truncated);
    }
    let payload_len = datagram.udp_len - udp::HEADER_LEN - HEADER_LEN;
    let words: [u64; 8] = packet
        .read(datagram.udp_offset + udp::HEADER_LEN)
        .ok_or(truncated)?;
    match RpcHeader::from_words(words, payload_len) {
        Ok(header) if header.kind.is_routable() => Ok(header),
        Ok(_) => Err(Stop::Drop(DropReason::UnexpectedKind)),
        Err(error) => Err(stop_for(error, words)),
    }
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
