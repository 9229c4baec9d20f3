//! The Maglev table (Eisenbud et al., NSDI '16, §3.4): which worker is a function's home.
//!
//! Each worker's permutation comes from its *name*, so that several balancers that know the same
//! workers under different ids make the same table.

use std::{cmp::Reverse, collections::BinaryHeap};

use ebpf_common::{hash::mix64, ids::WorkerId, limits::MAGLEV_TABLE_LEN};

const LEN: u64 = MAGLEV_TABLE_LEN as u64;

/// A worker and its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weighted<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its id.
    pub id: WorkerId,
    /// Its share, in proportion to those of the others; at least 1.
    pub weight: u16,
}

/// The table over `workers` of equal weight, which must have distinct names; every entry is [`WorkerId::NONE`] if
/// there are none. The order of `workers` does not matter.
#[must_use]
pub fn table(workers: &[(&str, WorkerId)]) -> Vec<WorkerId> {
    let workers: Vec<Weighted<'_>> = workers
        .iter()
        .map(|(name, id)| Weighted {
            name,
            id: *id,
            weight: 1,
        })
        .collect();
    weighted_table(&workers)
}

/// The table over `workers`, each with entries in proportion to its weight.
#[must_use]
pub fn weighted_table(workers: &[Weighted<'_>]) -> Vec<WorkerId> {
    let mut filling = Filling::new();
    let mut sorted = workers.to_vec();
    sorted.sort_unstable();
    let mut turns: Vec<Turn> = sorted
        .iter()
        .map(|worker| Turn::new(worker.name, worker.id))
        .collect();
    let Some(heaviest) = sorted.iter().map(|worker| worker.weight).max() else {
        return filling.entries;
    };
    if sorted.iter().all(|worker| worker.weight == heaviest) {
        while filling.left > 0 {
            for turn in turns.iter_mut().take(filling.left) {
                turn.take_next(&mut filling);
            }
        }
        return filling.entries;
    }
    // Whose turn it is: each takes its nth entry when the heaviest has taken `n × heaviest / weight` (in fractions that
    // all weights divide alike), so that at any moment everybody has its share. The smaller name first among equals.
    let step = |weight: u16| (u64::from(heaviest) << 32) / u64::from(weight.max(1));
    let mut queue: BinaryHeap<Reverse<(u64, usize)>> = sorted
        .iter()
        .enumerate()
        .map(|(number, worker)| Reverse((step(worker.weight), number)))
        .collect();
    while filling.left > 0
        && let Some(mut first) = queue.peek_mut()
    {
        let Reverse((time, number)) = &mut *first;
        turns[*number].take_next(&mut filling);
        *time += step(sorted[*number].weight);
    }
    filling.entries
}

/// A table that is being made.
struct Filling {
    entries: Vec<WorkerId>,
    /// One bit for each entry that somebody has: this fits the nearest cache, where most looks are at taken entries.
    taken: Vec<u64>,
    left: usize,
}

impl Filling {
    fn new() -> Self {
        Self {
            entries: vec![WorkerId::NONE; LEN as usize],
            taken: vec![0; LEN.div_ceil(64) as usize],
            left: LEN as usize,
        }
    }

    /// Gives `entry` to `worker`, unless somebody has it.
    #[inline]
    fn take(&mut self, entry: u64, worker: WorkerId) -> bool {
        let word = &mut self.taken[(entry / 64) as usize];
        let bit = 1 << (entry % 64);
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.entries[entry as usize] = worker;
        self.left -= 1;
        true
    }
}

/// One worker's walk through its permutation of the entries.
struct Turn {
    worker: WorkerId,
    position: u64,
    skip: u64,
}

impl Turn {
    fn new(name: &str, worker: WorkerId) -> Self {
        Self {
            worker,
            position: hash(name, OFFSET_SEED) % LEN,
            // LEN is prime, so any step but 0 visits every entry.
            skip: hash(name, SKIP_SEED) % (LEN - 1) + 1,
        }
    }

    /// Takes the first entry of the permutation that nobody has. There must be one.
    #[inline]
    fn take_next(&mut self, filling: &mut Filling) {
        loop {
            let position = self.position;
            let next = position + self.skip;
            self.position = if next >= LEN { next - LEN } else { next };
            if filling.take(position, self.worker) {
                return;
            }
        }
    }
}

// Any two constants do, as long as they differ and every balancer has the same.
const OFFSET_SEED: u64 = 0x6f66_6673_6574;
const SKIP_SEED: u64 = 0x736b_6970;

fn hash(name: &str, seed: u64) -> u64 {
    let mut state = mix64(seed ^ name.len() as u64);
    for chunk in name.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = mix64(state ^ u64::from_le_bytes(word)).wrapping_add(seed);
    }
    mix64(state)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn workers(names: &[String]) -> Vec<(&str, WorkerId)> {
        names
            .iter()
            .map(String::as_str)
            .zip((0..).map(WorkerId))
            .collect()
    }

    fn names(count: usize, seed: u32) -> Vec<String> {
        (0..count).map(|n| format!("worker-{seed}-{n}")).collect()
    }

    #[test]
    fn without_workers_no_entry_names_one() {
        assert!(table(&[]).iter().all(|entry| !entry.is_some()));
    }

    #[test]
    fn the_table_of_three_workers_is_this_one() {
        // A golden value: another one moves every function's home on an upgrade.
        let names = ["w0".to_owned(), "w1".to_owned(), "w2".to_owned()];
        let table = table(&workers(&names));
        let digest = table.iter().fold(0, |sum, id| mix64(sum ^ u64::from(id.0)));
        assert_eq!(format!("{digest:016x}"), "499e8dec148aa204");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_worker_has_its_share_within_a_hundredth(count in 1usize..100, seed: u32) {
            let names = names(count, seed);
            let mut shares = BTreeMap::<WorkerId, u32>::new();
            for entry in table(&workers(&names)) {
                *shares.entry(entry).or_default() += 1;
            }
            prop_assert_eq!(shares.len(), count);
            let ideal = MAGLEV_TABLE_LEN as f64 / count as f64;
            for share in shares.values() {
                prop_assert!((f64::from(*share) - ideal).abs() <= ideal / 100.0 + 1.0);
            }
        }

        #[test]
        fn removing_a_worker_moves_less_than_twice_its_share(count in 2usize..40, seed: u32, gone: prop::sample::Index) {
            let names = names(count, seed);
            let all = workers(&names);
            let mut fewer = all.clone();
            let (_, gone) = fewer.remove(gone.index(count));
            let before = table(&all);
            let after = table(&fewer);
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            let share = before.iter().filter(|id| **id == gone).count();
            prop_assert!(after.iter().all(|id| *id != gone));
            prop_assert!(moved < 2 * share, "{moved} entries moved, the worker had {share}");
        }

        #[test]
        fn every_worker_has_what_its_weight_asks_for(weights in prop::collection::vec(1u16..1000, 1..40), seed: u32) {
            let names = names(weights.len(), seed);
            let workers: Vec<Weighted<'_>> = names
                .iter()
                .zip(&weights)
                .zip((0..).map(WorkerId))
                .map(|((name, weight), id)| Weighted { name, id, weight: *weight })
                .collect();
            let mut shares = vec![0u32; weights.len()];
            for entry in weighted_table(&workers) {
                shares[usize::from(entry.0)] += 1;
            }
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (share, weight) in shares.iter().zip(&weights) {
                let ideal = f64::from(MAGLEV_TABLE_LEN) * f64::from(*weight) / total;
                prop_assert!((f64::from(*share) - ideal).abs() <= ideal / 100.0 + 2.0, "{share} of {ideal}");
            }
        }

        #[test]
        fn the_order_of_the_workers_does_not_matter(count in 1usize..20, seed: u32) {
            let names = names(count, seed);
            let mut reversed = workers(&names);
            reversed.reverse();
            prop_assert_eq!(table(&workers(&names)), table(&reversed));
        }
    }
}
