//! The rate of one function, from all clients together.

use ebpf_common::{maps::features, wire::RpcHeader};

use super::take;
use crate::{RETRY_AFTER_MAX_MS, Refusal, Stop, Tables, balance::Arrival};

/// Takes a new request from the rate of its function.
///
/// # Errors
/// Refused, with the time until there is one to take.
#[inline(always)]
pub(crate) fn check<T: Tables>(
    arrival: &Arrival<'_>,
    request: &RpcHeader,
    tables: &T,
) -> Result<(), Stop> {
    if !arrival.config.has(features::FUNCTION_RATE) {
        return Ok(());
    }
    let Some((limit, bucket)) = tables.function_limit(request.function) else {
        return Ok(());
    };
    let rate = limit.rate;
    let now_ns = tables.now_ns();
    if take(bucket, &rate, now_ns) {
        return Ok(());
    }
    let wait_ms = milliseconds(rate.wait_ns(bucket.get(), now_ns));
    arrival.retry_after_ms.set(wait_ms);
    Err(Stop::Refuse(Refusal::FunctionRate))
}

/// Whole milliseconds, rounded up, so that who waits as long is not too early.
#[inline(always)]
const fn milliseconds(ns: u64) -> u32 {
    let ms = ns.div_ceil(1_000_000);
    if ms < RETRY_AFTER_MAX_MS as u64 {
        ms as u32
    } else {
        RETRY_AFTER_MAX_MS
    }
}
