//! Rule 2: the worker that the session was placed on, for functions that ask for session affinity.
//! A session's first request is placed by the later rules, and its place is remembered.

use ebpf_common::{
    ids::WorkerId,
    maps::{Counter, SessionEntry, SessionKey},
    wire::RpcHeader,
};

use super::{Placement, for_existing_work};
use crate::{Rule, SessionError, Tables};

/// What the table says about a session.
#[derive(Clone, Copy)]
pub(super) enum Lookup<'t> {
    /// It lives on a worker that takes its requests.
    Lives(Placement<'t>),
    /// It lived on a worker that takes no more.
    Homeless,
    /// Not seen before, or forgotten: the table is an LRU.
    New,
}

/// Looks up the session of `request`.
#[inline(always)]
pub(super) fn look_up<'t, T: Tables>(request: &RpcHeader, tables: &'t T) -> Lookup<'t> {
    let Some(entry) = tables.session(&key_of(request)) else {
        return Lookup::New;
    };
    let worker = WorkerId(entry.worker);
    match for_existing_work(worker, tables) {
        Some(info) => Lookup::Lives(Placement {
            rule: Rule::Session,
            worker,
            info,
        }),
        None => Lookup::Homeless,
    }
}

/// Remembers `placement` for the session of `request`, and says where the request goes: there, or, when
/// another CPU placed the session in the meantime, to that place.
#[inline(always)]
pub(super) fn store<'t, T: Tables>(
    request: &RpcHeader,
    lookup: Lookup<'_>,
    placement: Placement<'t>,
    tables: &'t T,
) -> Placement<'t> {
    let key = key_of(request);
    let entry = SessionEntry {
        worker: placement.worker.0,
        reserved: 0,
    };
    let (stored, counter) = match lookup {
        Lookup::New => (tables.create_session(&key, entry), Counter::SessionCreated),
        // Two CPUs that move one session at the same moment may disagree for one request each; the last
        // entry holds. Requests of a session whose worker died have no instance to miss.
        _ => (tables.move_session(&key, entry), Counter::SessionMoved),
    };
    match stored {
        Ok(()) => tables.count(counter),
        Err(SessionError::Exists) => {
            if let Lookup::Lives(placed) = look_up(request, tables) {
                return placed;
            }
        }
        // A session without an entry is placed anew with each request: worse, but answered.
        Err(SessionError::Refused) => tables.count(Counter::SessionNotStored),
    }
    placement
}

#[inline(always)]
const fn key_of(request: &RpcHeader) -> SessionKey {
    SessionKey {
        function: request.function.0,
        session: request.session_id,
    }
}
