//! Whether the worker of a placement has so much in flight that a request would only wait there: better refused now, with
//! the time after which to try again, than after its budget has run out in a queue.

use ebpf_common::maps::features;

use crate::{
    RETRY_AFTER_MAX_MS, RETRY_AFTER_MS, Refusal, Stop, Tables, balance::Arrival, route::Placement,
};

/// Refuses a new request for a worker with `Config::shed_percent` of its capacity in flight.
///
/// # Errors
/// Refused, with a time to wait that grows with what is in flight there.
#[inline(always)]
pub(crate) fn check<T: Tables>(
    arrival: &Arrival<'_>,
    placement: &Placement<'_>,
    tables: &T,
) -> Result<(), Stop> {
    let config = arrival.config;
    if !config.has(features::SHED) {
        return Ok(());
    }
    let Some(load) = tables.worker_load(placement.worker) else {
        return Ok(());
    };
    let in_flight = u64::from(load.in_flight_now());
    let capacity = u64::from(placement.info.cap_over(load.capacity));
    let limit = capacity * u64::from(config.shed_percent);
    if in_flight * 100 < limit {
        return Ok(());
    }
    let wait_ms = retry_after_ms(in_flight * 100, limit);
    arrival.retry_after_ms.set(wait_ms);
    Err(Stop::Refuse(Refusal::Overloaded))
}

/// The usual time, as many times as there is more in flight than there may be.
#[inline(always)]
const fn retry_after_ms(in_flight: u64, limit: u64) -> u32 {
    let base = RETRY_AFTER_MS as u64;
    let ms = match (base * in_flight).checked_div(limit) {
        Some(ms) => ms,
        // A worker that takes nothing.
        None => RETRY_AFTER_MAX_MS as u64,
    };
    if ms < RETRY_AFTER_MAX_MS as u64 {
        ms as u32
    } else {
        RETRY_AFTER_MAX_MS
    }
}
