//! Rule 2: the worker that the session was placed on, for functions that ask for session affinity.
//! A session's first request is placed by the later rules, and its place is remembered.

use ebpf_common::{
    hash::{TableHash, table_hash},
    ids::WorkerId,
    maps::{Config, Counter, row_index},
    wire::RpcHeader,
};

use super::{
    Placement, for_existing_work,
    places::{self, Key, Stored},
};
use crate::{Rule, Tables};

/// Where the session of `request` lives, if its worker takes its requests.
#[inline(always)]
pub(super) fn place<'t, T: Tables>(
    request: &RpcHeader,
    config: &Config,
    tables: &'t T,
) -> Option<Placement<'t>> {
    let hash = hash(request, config);
    let row = tables.session_row(row_index(hash, config.session_mask))?;
    let worker = places::find(row, hash)?;
    let info = for_existing_work(worker, tables)?;
    Some(Placement {
        rule: Rule::Session,
        worker,
        info,
    })
}

/// Remembers `worker` for the session of `request`.
#[inline(always)]
pub(super) fn remember<T: Tables>(
    request: &RpcHeader,
    worker: WorkerId,
    config: &Config,
    tables: &T,
) {
    let hash = hash(request, config);
    tables.count(match tables.store_place(Key::Session, hash, worker) {
        Stored::Nowhere => return,
        Stored::Changed => Counter::SessionMoved,
        Stored::Created => Counter::SessionCreated,
        // A session is always kept.
        Stored::Evicted | Stored::NotKept => {
            tables.count(Counter::SessionCreated);
            Counter::SessionEvicted
        }
    });
}

/// What the session of `request` is known by.
#[inline(always)]
const fn hash(request: &RpcHeader, config: &Config) -> TableHash {
    table_hash(
        config.table_secret(),
        request.session_id,
        request.function.0,
    )
}
