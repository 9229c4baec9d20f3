//! Whether the tables fit.

use crate::{
    doctor::{Report, facts::Memory, report::Notes},
    maps::{MapSize, map_size},
};

const MIB: u64 = 1 << 20;
/// Maps that are named in the finding: the largest.
const NAMED: usize = 4;

pub(super) fn judge(memory: &Memory, report: &mut Report) {
    let mut notes = Notes::of("memory", report);
    let mut sizes: Vec<_> = memory
        .maps
        .iter()
        .map(|map| (map, map_size(map, memory.possible_cpus)))
        .collect();
    sizes.sort_by_key(|(_, size)| std::cmp::Reverse(size.full));
    let sum = |part: fn(&MapSize) -> u64| sizes.iter().map(|(_, size)| part(size)).sum::<u64>();
    let (at_once, full) = (sum(|size| size.at_once), sum(|size| size.full));
    let largest: Vec<_> = sizes
        .iter()
        .take(NAMED)
        .map(|(map, size)| format!("{} {}", map.name, mib(size.full)))
        .collect();
    let finding = format!(
        "tables take {} at load, {} when full ({}, …)",
        mib(at_once),
        mib(full),
        largest.join(", ")
    );
    let mend = "lower [limits] in balancer.toml, or add memory";
    match memory.available_bytes {
        None => notes.warning(
            "tables",
            format!("{finding}; free memory is not known"),
            mend,
        ),
        Some(free) if full > free => {
            notes.failure("tables", format!("{finding}; {} are free", mib(free)), mend);
        }
        Some(free) if full > free / 2 => {
            notes.warning("tables", format!("{finding}; {} are free", mib(free)), mend);
        }
        Some(free) => notes.ok("tables", format!("{finding}; {} are free", mib(free))),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}
