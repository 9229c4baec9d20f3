//! Many bills added up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Usage;

/// Peaks of memory are kept in classes, each a quarter larger than the last (2^(1/4) would be 19 %): fine
/// enough to choose a limit by, and few.
const CLASS_FIRST_KB: u64 = 4 << 10;

/// The sum of some bills. Adding is all that is ever done to it, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// Requests.
    pub requests: u64,
    /// Those that did not end well.
    pub failed: u64,
    /// Those for which an instance was started.
    pub cold: u64,
    /// From entering the pool to leaving it.
    pub wall_us: u64,
    /// The part of it before the handler began.
    pub queue_us: u64,
    /// The part of that in which an instance was being started.
    pub cold_us: u64,
    /// CPU time.
    pub cpu_ns: u64,
    /// The part of it that starts took.
    pub start_cpu_ns: u64,
    /// The part of it used between requests.
    pub idle_cpu_ns: u64,
    /// Memory limit times time.
    pub memory_mb_ms: u64,
    /// Of events.
    pub bytes_in: u64,
    /// Of replies.
    pub bytes_out: u64,
    /// Database reads on this host.
    pub db_reads_local: u64,
    /// Database reads on another host.
    pub db_reads_remote: u64,
    /// Database writes on this host.
    pub db_writes_local: u64,
    /// Database writes on another host.
    pub db_writes_remote: u64,
    /// Database operations that were refused or failed.
    pub db_failed: u64,
    /// Requests and their time by the most memory that their instance had.
    pub peaks: BTreeMap<u16, Peak>,
}

/// The requests with a peak of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peak {
    /// How many.
    pub requests: u64,
    /// How long their handlers ran, shared with those they ran beside.
    pub run_us: u64,
}

impl Line {
    /// Adds the bill of one request, of an instance with `memory_mb`.
    pub fn add(&mut self, usage: &Usage, succeeded: bool, memory_mb: u32) {
        self.requests += 1;
        self.failed += u64::from(!succeeded);
        self.cold += u64::from(usage.cold);
        self.wall_us += usage.wall_us;
        self.queue_us += usage.queue_us;
        self.cold_us += usage.cold_us;
        self.cpu_ns += usage.cpu_ns;
        self.start_cpu_ns += usage.start_cpu_ns;
        self.idle_cpu_ns += usage.idle_cpu_ns;
        self.memory_mb_ms += usage.memory_mb_ms;
        self.bytes_in += usage.bytes_in;
        self.bytes_out += usage.bytes_out;
        let ops = &usage.db;
        self.db_reads_local += u64::from(ops.get_local) + u64::from(ops.scan_local);
        self.db_reads_remote += u64::from(ops.get_remote) + u64::from(ops.scan_remote);
        self.db_writes_local += u64::from(ops.write_local);
        self.db_writes_remote += u64::from(ops.write_remote);
        self.db_failed += u64::from(ops.failed);
        if usage.instance != 0 {
            let peak = self
                .peaks
                .entry(class_of(usage.memory_peak_kb))
                .or_default();
            peak.requests += 1;
            peak.run_us += usage.memory_mb_ms * 1_000 / u64::from(memory_mb.max(1));
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.cold += other.cold;
        self.wall_us += other.wall_us;
        self.queue_us += other.queue_us;
        self.cold_us += other.cold_us;
        self.cpu_ns += other.cpu_ns;
        self.start_cpu_ns += other.start_cpu_ns;
        self.idle_cpu_ns += other.idle_cpu_ns;
        self.memory_mb_ms += other.memory_mb_ms;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.db_reads_local += other.db_reads_local;
        self.db_reads_remote += other.db_reads_remote;
        self.db_writes_local += other.db_writes_local;
        self.db_writes_remote += other.db_writes_remote;
        self.db_failed += other.db_failed;
        for (class, other) in &other.peaks {
            let peak = self.peaks.entry(*class).or_default();
            peak.requests += other.requests;
            peak.run_us += other.run_us;
        }
    }

    /// What the same requests would have been with a limit of `memory_mb`.
    #[must_use]
    pub fn what_if(&self, memory_mb: u32) -> WhatIf {
        let limit_kb = u64::from(memory_mb) << 10;
        let mut what = WhatIf::default();
        for (class, peak) in &self.peaks {
            let (least_kb, most_kb) = bounds_of(*class);
            what.memory_mb_ms += u64::from(memory_mb) * peak.run_us / 1_000;
            what.largest_peak_mb = what.largest_peak_mb.max(most_kb.div_ceil(1 << 10));
            if least_kb >= limit_kb {
                what.killed_at_least += peak.requests;
            }
            if most_kb > limit_kb {
                what.killed_at_most += peak.requests;
            }
        }
        what
    }
}

/// What another memory limit comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhatIf {
    /// Memory limit times time.
    pub memory_mb_ms: u64,
    /// Requests that needed more for certain, and would have been killed.
    pub killed_at_least: u64,
    /// Those that may have: peaks are known in classes.
    pub killed_at_most: u64,
    /// No request is known to have needed more than this.
    pub largest_peak_mb: u64,
}

/// The class of a peak: 0 up to [`CLASS_FIRST_KB`], and one more for each quarter on top.
fn class_of(peak_kb: u64) -> u16 {
    let (mut class, mut most) = (0, CLASS_FIRST_KB);
    while most < peak_kb && class < u16::MAX {
        most += most / 4;
        class += 1;
    }
    class
}

/// The peaks of a class: more than the first (but for class 0), at most the second.
fn bounds_of(class: u16) -> (u64, u64) {
    let (mut least, mut most) = (0, CLASS_FIRST_KB);
    for _ in 0..class {
        least = most;
        most = most.saturating_add(most / 4);
    }
    (least, most)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bill::DbOps;

    pub(crate) fn usage() -> impl Strategy<Value = Usage> {
        (
            any::<[u32; 6]>(),
            any::<[u16; 7]>(),
            any::<bool>(),
            0..3_u64,
        )
            .prop_map(|(numbers, ops, cold, instance)| {
                let [
                    wall_us,
                    cpu_ns,
                    memory_mb_ms,
                    memory_peak_kb,
                    bytes_in,
                    bytes_out,
                ] = numbers.map(u64::from);
                let [a, b, c, d, e, f, failed] = ops.map(u32::from);
                Usage {
                    wall_us,
                    queue_us: wall_us / 2,
                    cold_us: wall_us / 4,
                    cpu_ns,
                    start_cpu_ns: cpu_ns / 3,
                    idle_cpu_ns: cpu_ns / 5,
                    memory_mb_ms,
                    memory_peak_kb,
                    bytes_in,
                    bytes_out,
                    db: DbOps {
                        get_local: a,
                        get_remote: b,
                        scan_local: c,
                        scan_remote: d,
                        write_local: e,
                        write_remote: f,
                        failed,
                    },
                    cold,
                    instance,
                    path: None,
                }
            })
    }

    fn sum(bills: &[(Usage, bool)]) -> Line {
        let mut line = Line::default();
        for (usage, succeeded) in bills {
            line.add(usage, *succeeded, 128);
        }
        line
    }

    proptest! {
        #[test]
        fn it_does_not_matter_what_is_added_first(
            bills in proptest::collection::vec((usage(), any::<bool>()), 0..30),
            at in 0..30_usize,
        ) {
            let (left, right) = bills.split_at(at.min(bills.len()));
            let (mut one, mut other) = (sum(left), sum(right));
            let (first, second) = (one.clone(), other.clone());
            one.merge(&second);
            other.merge(&first);
            prop_assert_eq!(&one, &other);
            prop_assert_eq!(&one, &sum(&bills));
            let cpu: u64 = bills.iter().map(|(usage, _)| usage.cpu_ns).sum();
            prop_assert_eq!(one.cpu_ns, cpu);
        }

        #[test]
        fn a_peak_lies_within_its_class(peak_kb in 0..u64::from(u32::MAX)) {
            let (least, most) = bounds_of(class_of(peak_kb));
            prop_assert!(peak_kb <= most && (peak_kb > least || peak_kb == 0));
        }

        #[test]
        fn less_memory_never_kills_fewer(
            bills in proptest::collection::vec((usage(), any::<bool>()), 0..30),
            memory_mb in 1..4_000_u32,
        ) {
            let line = sum(&bills);
            let (less, more) = (line.what_if(memory_mb), line.what_if(memory_mb + 1));
            prop_assert!(less.killed_at_least >= more.killed_at_least);
            prop_assert!(less.killed_at_most >= more.killed_at_most);
            prop_assert!(less.killed_at_most >= less.killed_at_least);
            let needed = bills.iter().filter(|(usage, _)| {
                usage.instance != 0 && usage.memory_peak_kb > u64::from(memory_mb) << 10
            });
            let needed = needed.count() as u64;
            prop_assert!((less.killed_at_least..=less.killed_at_most).contains(&needed));
        }
    }

    #[test]
    fn another_limit_costs_in_proportion_and_kills_who_needed_more() {
        let bill = |memory_peak_kb| Usage {
            memory_mb_ms: 128 * 100,
            memory_peak_kb,
            instance: 1,
            ..Usage::default()
        };
        let line = sum(&[(bill(20 << 10), true), (bill(100 << 10), true)]);
        let what = line.what_if(64);
        assert_eq!(what.memory_mb_ms, 2 * 64 * 100);
        assert_eq!((what.killed_at_least, what.killed_at_most), (1, 1));
        assert!((100..=125).contains(&what.largest_peak_mb), "{what:?}");
    }
}
