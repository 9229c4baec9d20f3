//! Rule 2: the worker that the session was placed on, for functions that ask for session affinity.
//! A session's first request is placed by the later rules, and its place is remembered.

use ebpf_common::{
    hash::{TableHash, table_hash},
    maps::{Config, Counter, row_index},
    wire::RpcHeader,
};

use super::{
    Placement, for_existing_work,
    places::{self, Stored},
};
use crate::{Row, Rule, Tables};

/// What the table says about a session.
#[derive(Clone, Copy)]
pub(super) enum Lookup<'t> {
    /// It lives on a worker that takes its requests.
    Lives(Placement<'t>),
    /// It has no place there, or one on a worker that takes no more; its row.
    Homeless(TableHash, Option<&'t Row>),
}

/// Looks up the session of `request`.
#[inline(always)]
pub(super) fn look_up<'t, T: Tables>(
    request: &RpcHeader,
    config: &Config,
    tables: &'t T,
) -> Lookup<'t> {
    let hash = table_hash(
        config.table_secret(),
        request.session_id,
        request.function.0,
    );
    let row = tables.session_row(row_index(hash, config.session_mask));
    let worker = row.and_then(|row| places::find(row, hash));
    let placement = worker.and_then(|worker| {
        let info = for_existing_work(worker, tables)?;
        Some(Placement {
            rule: Rule::Session,
            worker,
            info,
        })
    });
    match placement {
        Some(placement) => Lookup::Lives(placement),
        None => Lookup::Homeless(hash, row),
    }
}

/// Remembers `placement` for the session of `lookup`.
#[inline(always)]
pub(super) fn store<T: Tables>(lookup: Lookup<'_>, placement: &Placement<'_>, tables: &T) {
    if let Lookup::Homeless(hash, Some(row)) = lookup {
        tables.count(match places::store(row, hash, placement.worker) {
            Stored::Changed => Counter::SessionMoved,
            Stored::Created => Counter::SessionCreated,
            Stored::Evicted => {
                tables.count(Counter::SessionCreated);
                Counter::SessionEvicted
            }
        });
    }
}
