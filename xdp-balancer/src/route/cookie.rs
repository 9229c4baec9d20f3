//! Rule 1: the worker that a valid route cookie names. No table, so it costs the same at any number of flows.

use ebpf_common::{
    cookie::{CookieError, CookieScope},
    maps::{Config, Counter},
    wire::{RpcHeader, flags},
};

use super::{Placement, for_existing_work, session_id};
use crate::{Rule, Tables};

/// The placement, if `request` has a cookie of ours whose worker takes existing work; a cookie that does
/// not route is counted, and the next rule has its turn.
#[inline(always)]
pub(super) fn place<'t, T: Tables>(
    request: &RpcHeader,
    config: &Config,
    tables: &'t T,
) -> Option<Placement<'t>> {
    if !request.has(flags::HAS_COOKIE) {
        return None;
    }
    let scope = CookieScope {
        function: request.function,
        session: session_id(request),
    };
    let worker = match config.cookie_keys().open(request.route_cookie, scope) {
        Ok(worker) => worker,
        Err(CookieError::Stale) => {
            tables.count(Counter::CookieStale);
            return None;
        }
        Err(CookieError::Forged) => {
            tables.count(Counter::CookieForged);
            return None;
        }
    };
    let Some(info) = for_existing_work(worker, tables) else {
        tables.count(Counter::CookieWorkerGone);
        return None;
    };
    Some(Placement {
        rule: Rule::Cookie,
        worker,
        info,
    })
}
