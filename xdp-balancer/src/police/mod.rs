//! Whether a packet may take up a worker's time. Three questions, in the order in which their answers become known: may
//! the source send at all ([`source`]), may the request be made ([`request`]), can the worker take it ([`shed`]).

use ebpf_common::{maps::features, wire::RpcHeader};

use crate::{DropReason, Packet, Refusal, Stop, Tables, balance::Arrival, route::Placement};

/// Block lists and the source's rate.
///
/// # Errors
/// Dropped, never answered: a source may be forged.
#[inline(always)]
pub(crate) fn source<P: Packet, T: Tables>(
    _packet: &P,
    _arrival: &Arrival<'_>,
    _tables: &T,
) -> Result<(), DropReason> {
    Ok(())
}

/// The function's rate, and the address token above the rate of sources without one.
///
/// # Errors
/// Refused above the function's rate; RETRY with the token that the source is to show.
#[inline(always)]
pub(crate) fn request<P: Packet, T: Tables>(
    _packet: &P,
    _arrival: &Arrival<'_>,
    _request: &RpcHeader,
    _tables: &T,
) -> Result<(), Stop> {
    Ok(())
}

/// Whether the worker of `placement` has so much in flight that the request would only wait there.
///
/// # Errors
/// Refused, with the time after which to try again.
#[inline(always)]
pub(crate) fn shed<T: Tables>(
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
    let limit = u64::from(load.capacity) * u64::from(config.shed_percent);
    if u64::from(load.in_flight_now()) * 100 > limit {
        return Err(Stop::Refuse(Refusal::Overloaded));
    }
    Ok(())
}
