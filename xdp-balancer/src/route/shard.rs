//! Rule 3: the worker that owns the slot, for functions that ask for shard affinity. There is no later
//! rule for such a request: on another worker it would not find its data.

use ebpf_common::{
    maps::{Config, slot_index},
    wire::RpcHeader,
};

use super::{Placement, for_existing_work};
use crate::{DropReason, Refusal, Rule, Stop, Tables};

/// The owner of the slot of `request`. One that drains still owns its slots, until they are moved.
#[inline(always)]
pub(super) fn place<'t, T: Tables>(
    request: &RpcHeader,
    config: &Config,
    tables: &'t T,
) -> Result<Placement<'t>, Stop> {
    let worker = tables
        .slot(slot_index(config.generation, request.slot))
        .ok_or(Stop::Drop(DropReason::NotConfigured))?;
    // `WorkerId::NONE`, an unowned slot, has no row.
    let info = for_existing_work(worker, tables).ok_or(Stop::Refuse(Refusal::NoShardOwner))?;
    Ok(Placement {
        rule: Rule::Shard,
        worker,
        info,
    })
}
