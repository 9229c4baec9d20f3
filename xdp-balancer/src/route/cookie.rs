//! Rule 1: the worker that a valid route cookie names. No table, so it costs the same at any number of flows.

use ebpf_common::{
    cookie::{CookieError, CookieScope},
    ids::WorkerId,
    maps::{Config, Counter},
    wire::{RpcHeader, flags},
};

use super::{for_existing_work, session_id};
use crate::Tables;

/// The worker of the cookie of `request`, if that is one of ours and its worker takes existing work, else
/// [`WorkerId::NONE`]; a cookie that does not route is counted, and the next rule has its turn.
///
/// VERIFIER: a number and not an `Option`, of which LLVM would keep the unset half on the stack ("R2 !read_ok").
#[inline(always)]
pub(crate) fn worker<T: Tables>(request: &RpcHeader, config: &Config, tables: &T) -> WorkerId {
    if !request.has(flags::HAS_COOKIE) {
        return WorkerId::NONE;
    }
    let scope = CookieScope {
        function: request.function,
        session: session_id(request),
    };
    let why = match config.cookie_keys().open(request.route_cookie, scope) {
        Ok(worker) if for_existing_work(worker, tables).is_some() => return worker,
        Ok(_) => Counter::CookieWorkerGone,
        Err(CookieError::Stale) => Counter::CookieStale,
        Err(CookieError::Forged) => Counter::CookieForged,
    };
    tables.count(why);
    WorkerId::NONE
}
