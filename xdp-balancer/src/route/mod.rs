//! Which worker gets a request. The order of the rules is written here and nowhere else.

mod cookie;
mod home;
mod session;
mod shard;
pub mod vip;
mod warm;

use ebpf_common::{
    ids::WorkerId,
    maps::{Affinity, WorkerInfo},
    wire::{RpcHeader, flags},
};

use crate::{DropReason, Refusal, Rule, Stop, Tables};

/// Where a request goes, and by which rule.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'t> {
    /// The rule that chose.
    pub rule: Rule,
    /// The worker's id.
    pub worker: WorkerId,
    /// The worker's row, so that it is looked up once.
    pub info: &'t WorkerInfo,
}

/// Chooses the worker for `request`: cookie, session, shard, warm, home; the first that matches wins.
///
/// # Errors
/// [`Stop`] if none may have it.
#[inline(always)]
pub fn route<'t, T: Tables>(request: &RpcHeader, tables: &'t T) -> Result<Placement<'t>, Stop> {
    let config = tables
        .config()
        .ok_or(Stop::Drop(DropReason::NotConfigured))?;
    if let Some(placement) = cookie::place(request, config, tables) {
        return Ok(placement);
    }
    let function = tables
        .function(request.function)
        .ok_or(Stop::Refuse(Refusal::UnknownFunction))?;
    let affinity = function.affinity();
    if affinity == Affinity::Shard && request.has(flags::HAS_SLOT) {
        return shard::place(request, config, tables);
    }
    let session = (affinity == Affinity::Session && request.has(flags::HAS_SESSION))
        .then(|| session::look_up(request, tables));
    if let Some(session::Lookup::Lives(placement)) = session {
        return Ok(placement);
    }
    let placement = match warm::place(request, function, tables) {
        Some(placement) => placement,
        None => home::place(request.function, config, tables)?,
    };
    Ok(match session {
        Some(lookup) => session::store(request, lookup, placement, tables),
        None => placement,
    })
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
