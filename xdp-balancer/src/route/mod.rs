//! Which worker gets a packet. The order of the rules is written here and nowhere else.

pub(crate) mod cookie;
pub(crate) mod flow;
mod fragment;
pub mod home;
pub(crate) mod icmp;
pub(crate) mod load;
pub(crate) mod pktgen;
pub mod places;
pub(crate) mod quic;
mod schema;
mod session;
mod shard;
pub mod vip;
mod warm;

use ebpf_common::{
    ids::WorkerId,
    maps::{Affinity, FunctionEntry, WorkerInfo, home_hash},
    wire::{RpcHeader, flags},
};

use crate::{Packet, Refusal, Rule, Stop, Tables, balance::Arrival, opaque::opaque};

/// Where a packet goes, and by which rule.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'t> {
    /// The rule that chose.
    pub rule: Rule,
    /// The worker's id.
    pub worker: WorkerId,
    /// The worker's row, so that it is looked up once.
    pub info: &'t WorkerInfo,
}

/// Chooses the worker for `request`, of whose `function` this is the row: cookie, whose worker it is if there is one, session,
/// shard, warm, home; the first that matches wins. A fragment without a cookie follows the one of its message that came first.
///
/// # Errors
/// [`Stop`] if none may have it.
#[inline(always)]
pub(crate) fn route<'t, P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    request: &RpcHeader,
    cookie: WorkerId,
    function: Option<&'t FunctionEntry>,
    tables: &'t T,
) -> Result<Placement<'t>, Stop> {
    let config = arrival.config;
    if cookie != WorkerId::NONE
        && let Some(info) = tables.worker(cookie)
    {
        return Ok(Placement {
            rule: Rule::Cookie,
            worker: cookie,
            info,
        });
    }
    if request.fragment_count > 1
        && let Some(placement) = fragment::follow(request, config, tables)
    {
        return Ok(placement);
    }
    let placement = by_function(packet, arrival, request, function, tables)?;
    if request.fragment_count > 1 {
        fragment::remember(request, &placement, config, tables);
    }
    Ok(placement)
}

/// The rules that need the function's row.
#[inline(always)]
fn by_function<'t, P: Packet, T: Tables>(
    packet: &P,
    arrival: &Arrival<'_>,
    request: &RpcHeader,
    function: Option<&'t FunctionEntry>,
    tables: &'t T,
) -> Result<Placement<'t>, Stop> {
    let config = arrival.config;
    let function = function.ok_or(Stop::Refuse(Refusal::UnknownFunction))?;
    let mut request = *request;
    schema::apply(packet, arrival, function, &mut request, tables);
    let request = &request;
    let affinity = function.affinity();
    if affinity == Affinity::Shard && request.has(flags::HAS_SLOT) {
        return shard::place(request, config, tables);
    }
    let is_of_session = affinity == Affinity::Session && request.has(flags::HAS_SESSION);
    if is_of_session && let Some(placement) = session::place(request, config, tables) {
        return Ok(placement);
    }
    let placement = match warm::place(request, function, tables) {
        Some(placement) => placement,
        None => {
            let nobody = Stop::Refuse(Refusal::NoWorker);
            let hash = home_hash(request.function);
            home::place(hash, arrival, Rule::Home, nobody, tables)?
        }
    };
    // VERIFIER: it was asked before the home rule too; see [`crate::opaque`].
    if opaque(is_of_session.into()) != 0 {
        session::remember(request, placement.worker, config, tables);
    }
    Ok(placement)
}

/// The row of `worker` if it takes requests that belong nowhere else.
#[inline(always)]
fn for_new_work<T: Tables>(worker: WorkerId, tables: &T) -> Option<&WorkerInfo> {
    tables.worker(worker).filter(|info| info.takes_new_work())
}

/// The row of `worker` if it takes requests of sessions that live there.
#[inline(always)]
fn for_existing_work<T: Tables>(worker: WorkerId, tables: &T) -> Option<&WorkerInfo> {
    tables
        .worker(worker)
        .filter(|info| info.takes_existing_work())
}

/// What a session or a route cookie is bound to beside the function.
#[inline(always)]
const fn session_id(request: &RpcHeader) -> u64 {
    if request.has(flags::HAS_SESSION) {
        request.session_id
    } else {
        0
    }
}
