//! VIPs of kind `pktgen`: the kernel's packet generator fills its payload with a header of its own (net/core/pktgen.c,
//! `struct pktgen_hdr`), whose sequence number stands for a request here.

use ebpf_common::{
    ids::{FunctionId, SlotId},
    limits::{PKTGEN_FUNCTIONS, SLOTS},
    maps::PktgenInfo,
    wire::{RpcHeader, flags},
};
use zerocopy::network_endian::U32;

use crate::{
    DropReason, Packet, Stop, Tables,
    balance::Arrival,
    parse::transport::{PROTOCOL_UDP, UDP_HEADER_LEN},
};

/// First four bytes of pktgen's header.
const MAGIC: u32 = 0xbe9b_e955;

/// The request that a packet of pktgen stands for.
///
/// # Errors
/// Dropped: it is no packet of pktgen.
#[inline(always)]
pub(crate) fn request<P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    tables: &T,
) -> Result<RpcHeader, Stop> {
    let network = &arrival.headers.network;
    let not_pktgen = Stop::Drop(DropReason::NotPktgen);
    let [magic, sequence]: [U32; 2] = packet
        .read(network.payload_offset + UDP_HEADER_LEN)
        .ok_or(not_pktgen)?;
    if magic.get() != MAGIC || network.protocol != PROTOCOL_UDP {
        return Err(not_pktgen);
    }
    let info = tables
        .pktgen(u32::from(arrival.vip.pktgen))
        .ok_or(Stop::Drop(DropReason::NotConfigured))?;
    Ok(one_way(stands_for(sequence.get(), info), tables))
}

/// Request number `sequence` of the mix that `info` describes.
#[inline(always)]
fn stands_for(sequence: u32, info: &PktgenInfo) -> RpcHeader {
    let functions_mask = info.functions_len.wrapping_sub(1) & (PKTGEN_FUNCTIONS as u32 - 1);
    let place = (sequence & functions_mask) as usize & (PKTGEN_FUNCTIONS - 1);
    let function = info.functions.get(place).copied().unwrap_or_default();
    let mut request = RpcHeader::request(FunctionId(function), u64::from(sequence));
    request.flags |= flags::HAS_SLOT;
    request.slot = SlotId((sequence & (SLOTS - 1)) as u16);
    if info.sessions != 0 {
        request.flags |= flags::HAS_SESSION;
        request.session_id = u64::from(sequence & (info.sessions - 1));
    }
    request
}

/// The same request, as unknown to the verifier as one that was read (see [`Tables::opaque`]).
#[inline(always)]
fn one_way<T: Tables>(request: RpcHeader, tables: &T) -> RpcHeader {
    let [zero, one, flags] = tables.opaque([0, 1, u32::from(request.flags)]);
    RpcHeader {
        flags: flags as u16,
        fragment_index: zero as u16,
        fragment_count: one as u16,
        status: zero as u16,
        budget_ms: zero,
        payload_len: zero,
        route_cookie: u64::from(zero),
        token: u64::from(zero),
        ..request
    }
}
