//! Rule 5: the function's home in the Maglev table (Eisenbud et al., NSDI '16), so that cold starts of
//! a function land where its code is cached. When that worker takes no new work, the next entries are tried,
//! up to [`HOME_PROBES`]: they lead all functions of one dead worker to different ones.

use ebpf_common::{
    ids::FunctionId,
    limits::HOME_PROBES,
    maps::{Config, Counter, home_index},
};

use super::{Placement, for_new_work};
use crate::{DropReason, Refusal, Rule, Stop, Tables};

/// The first worker from the function's home on that takes new work.
#[inline(always)]
pub(super) fn place<'t, T: Tables>(
    function: FunctionId,
    config: &Config,
    tables: &'t T,
) -> Result<Placement<'t>, Stop> {
    for probe in 0..HOME_PROBES {
        let worker = tables
            .home(home_index(config.generation, function, probe))
            .ok_or(Stop::Drop(DropReason::NotConfigured))?;
        // `WorkerId::NONE`, an empty entry, has no row.
        if let Some(info) = for_new_work(worker, tables) {
            if probe > 0 {
                tables.count(Counter::HomeProbed);
            }
            return Ok(Placement {
                rule: Rule::Home,
                worker,
                info,
            });
        }
    }
    Err(Stop::Refuse(Refusal::NoWorker))
}
