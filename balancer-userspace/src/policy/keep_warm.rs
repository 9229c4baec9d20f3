//! Which workers keep the instances that a manifest (`min_warm`) or an operator asks for, and which have the code alone.
//!
//! They are spread over the workers that the home rule would ask: the function's home first, then those that
//! follow it in the home table. So the first request of a function finds a warm instance, or the code, where the rules lead
//! it, and the loss of one worker leaves the others.

use std::collections::BTreeMap;

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    maps::home_hash,
};

use super::orders::Wanted;
use crate::membership::protocol::KeepWarm;

/// What each worker keeps, by its id.
pub type Kept = BTreeMap<u16, Vec<KeepWarm>>;

/// Spreads the instances and the code of all functions in `wanted` over the workers of a home table, of which there are
/// `workers` different ones.
#[must_use]
pub fn spread(table: &[WorkerId], workers: usize, wanted: &[Wanted]) -> Kept {
    let mut all = Kept::new();
    for Wanted {
        function,
        count,
        code_on,
        is_ordered,
    } in wanted
    {
        let homes = homes(
            table,
            *function,
            workers.min((*count).max(*code_on) as usize),
        );
        let places = u32::try_from(homes.len()).unwrap_or(u32::MAX).min(*count);
        for (turn, worker) in (0..).zip(homes) {
            // The first ones take what does not divide.
            let more = |places| count / places + u32::from(turn < count % places);
            let instances = if turn < places { more(places) } else { 0 };
            all.entry(worker.0).or_default().push(KeepWarm {
                function: *function,
                instances,
                tell: *is_ordered,
                code: turn < *code_on,
            });
        }
    }
    all
}

/// The first `count` different workers of the table, from the function's place on.
fn homes(table: &[WorkerId], function: FunctionId, count: usize) -> Vec<WorkerId> {
    let mut homes = Vec::with_capacity(count);
    let Some(start) = home_hash(function).checked_rem(table.len() as u64) else {
        return homes;
    };
    let start = usize::try_from(start).unwrap_or_default();
    for worker in table[start..].iter().chain(&table[..start]) {
        if homes.len() >= count {
            break;
        }
        if !homes.contains(worker) {
            homes.push(*worker);
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::maglev;

    fn table(workers: u16) -> Vec<WorkerId> {
        let names: Vec<String> = (1..=workers).map(|id| format!("w{id}")).collect();
        let workers: Vec<_> = names
            .iter()
            .zip(1..)
            .map(|(name, id)| maglev::Weighted {
                name,
                id: WorkerId(id),
                weight: 1,
            })
            .collect();
        maglev::weighted_table(&workers)
    }

    fn kept(function: FunctionId, count: u32) -> Wanted {
        Wanted {
            function,
            count,
            code_on: 0,
            is_ordered: false,
        }
    }

    #[test]
    fn the_home_comes_first_and_the_rest_is_spread_evenly() {
        let table = table(3);
        let function = FunctionId::of("hello");
        let home = table[(home_hash(function) % table.len() as u64) as usize];
        let one = spread(&table, 3, &[kept(function, 1)]);
        assert_eq!(one.keys().copied().collect::<Vec<_>>(), [home.0]);
        let seven = spread(&table, 3, &[kept(function, 7)]);
        let mut counts: Vec<u32> = seven.values().map(|kept| kept[0].instances).collect();
        counts.sort_unstable();
        assert_eq!(counts, [2, 2, 3]);
        assert_eq!(seven[&home.0][0].instances, 3);
    }

    #[test]
    fn without_workers_nothing_is_kept() {
        assert!(spread(&[], 0, &[kept(FunctionId(1), 5)]).is_empty());
        assert!(spread(&table(2), 2, &[]).is_empty());
    }

    #[test]
    fn workers_are_asked_to_tell_of_what_was_ordered() {
        let ordered = Wanted {
            is_ordered: true,
            ..kept(FunctionId(1), 2)
        };
        let all = spread(&table(2), 2, &[ordered, kept(FunctionId(2), 2)]);
        for told in all.values() {
            let told: Vec<bool> = told.iter().map(|kept| kept.tell).collect();
            assert_eq!(told, [true, false]);
        }
    }

    #[test]
    fn code_goes_to_the_homes_first_beside_instances_or_alone() {
        let (table, function) = (table(4), FunctionId::of("hello"));
        let parts = |count, code_on| {
            let wanted = Wanted {
                code_on,
                is_ordered: true,
                ..kept(function, count)
            };
            let all = spread(&table, 4, &[wanted]);
            let mut parts: Vec<_> = all
                .values()
                .flatten()
                .map(|part| (part.instances, part.code))
                .collect();
            parts.sort_unstable();
            parts
        };
        assert_eq!(parts(0, 2), [(0, true), (0, true)]);
        assert_eq!(parts(0, u32::MAX), [(0, true); 4]);
        assert_eq!(parts(1, 3), [(0, true), (0, true), (1, true)]);
        assert_eq!(parts(3, 1), [(1, false), (1, false), (1, true)]);
        let home = table[(home_hash(function) % table.len() as u64) as usize];
        let one = Wanted {
            code_on: 1,
            ..kept(function, 0)
        };
        assert!(spread(&table, 4, &[one]).keys().eq([&home.0]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn as_many_are_kept_as_were_asked_for_whoever_goes(
            workers in 1..20_u16,
            functions in prop::collection::vec((any::<u64>(), 1..40_u32), 1..10),
        ) {
            let kept: Vec<_> = functions.into_iter().map(|(id, n)| kept(FunctionId(id), n)).collect();
            let all = spread(&table(workers), usize::from(workers), &kept);
            let sum: u32 = all.values().flatten().map(|kept| kept.instances).sum();
            prop_assert_eq!(sum, kept.iter().map(|kept| kept.count).sum::<u32>());
            prop_assert!(all.values().flatten().all(|kept| kept.instances > 0));
        }
    }
}
