//! The fragments of a message follow the one that came first, as a rule the first one. A client that has a route cookie sends it with each and needs no
//! entry; one that sends all fragments at once, before the worker's first answer, has none yet.

use ebpf_common::{
    hash::{TableHash, table_hash},
    maps::{Config, Counter, row_index},
    wire::RpcHeader,
};

use super::{
    Placement, for_existing_work,
    places::{self, Key},
};
use crate::{Rule, Tables};

/// Keeps a message's key from being that of a flow.
const MESSAGE: u64 = 1 << 63;

/// The place of the fragment that came first.
#[inline(always)]
pub(super) fn follow<'t, T: Tables>(
    request: &RpcHeader,
    config: &Config,
    tables: &'t T,
) -> Option<Placement<'t>> {
    let hash = hash(request, config);
    let worker = tables
        .flow_row(row_index(hash, config.flow_mask))
        .and_then(|row| places::find(row, hash));
    let placement = worker.and_then(|worker| {
        let info = for_existing_work(worker, tables)?;
        Some(Placement {
            rule: Rule::Fragment,
            worker,
            info,
        })
    });
    if placement.is_none() && request.fragment_index > 0 {
        tables.count(Counter::FragmentUnplaced);
    }
    placement
}

/// Remembers where a fragment went, whichever came first.
#[inline(always)]
pub(super) fn remember<T: Tables>(
    request: &RpcHeader,
    placement: &Placement<'_>,
    config: &Config,
    tables: &T,
) {
    let hash = hash(request, config);
    places::remember_in_flows(Key::Message, hash, placement.worker, tables);
}

#[inline(always)]
const fn hash(request: &RpcHeader, config: &Config) -> TableHash {
    table_hash(
        config.table_secret(),
        request.request_id ^ request.function.0,
        MESSAGE,
    )
}
