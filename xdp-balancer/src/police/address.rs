//! Whether the source receives what is sent to its address. Asked of requests without a valid address token, above a rate:
//! below it a first request needs no second round trip, above it a forged source costs no worker anything, and gets an
//! answer that is no longer than its request.

use ebpf_common::{
    maps::{Counter, CpuBucket, VipKind, features},
    token::TokenError,
    wire::{RpcHeader, flags},
};

use super::{source_address, take};
use crate::{DropReason, Packet, Stop, Tables, balance::Arrival};

#[inline(always)]
pub(crate) fn check<P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    request: &RpcHeader,
    tables: &T,
) -> Result<(), Stop> {
    let config = arrival.config;
    // The kernel's pktgen cannot echo a token.
    if !config.has(features::ADDRESS_TOKENS) || arrival.vip.kind != VipKind::Rpc as u8 {
        return Ok(());
    }
    let source = source_address(packet, &arrival.headers.network).map_err(Stop::Drop)?;
    let keys = config.token_keys();
    if request.has(flags::HAS_TOKEN) {
        match keys.check(request.token, source) {
            Ok(()) => return Ok(()),
            Err(TokenError::Stale) => tables.count(Counter::TokenStale),
            Err(TokenError::Forged) => tables.count(Counter::TokenForged),
        }
    }
    let bucket = tables
        .cpu_bucket(CpuBucket::Unknown)
        .ok_or(Stop::Drop(DropReason::NotConfigured))?;
    if take(bucket, &config.unknown_rate, tables.now_ns()) {
        Ok(())
    } else {
        Err(Stop::Retry)
    }
}

/// The token that the source of a packet is to show.
#[inline(always)]
pub(crate) fn token<P: Packet>(packet: &P, arrival: &Arrival<'_>) -> Result<u64, DropReason> {
    let source = source_address(packet, &arrival.headers.network)?;
    Ok(arrival.config.token_keys().seal(source))
}
