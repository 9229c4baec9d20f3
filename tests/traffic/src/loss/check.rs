//! Where each packet came to, against where it might have.

use std::{collections::HashMap, fmt, sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use ebpf_common::ids::{SlotId, WorkerId};

use super::{
    kinds::{COLD, Kind, SESSIONS},
    report::Packets,
    sink::Arrival,
};

/// Whom the tables mean at one time.
#[derive(Debug, Clone)]
pub(super) struct Right {
    pub(super) warm: Vec<WorkerId>,
    pub(super) slots: Arc<Vec<WorkerId>>,
    /// By number of the cold function.
    pub(super) home: [WorkerId; COLD as usize],
}

/// A change, and whom the tables mean after it.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) begun: Instant,
    pub(super) done: Instant,
    pub(super) right: Right,
}

/// All changes, in order.
#[derive(Debug)]
pub(super) struct Log {
    first: Right,
    changes: Vec<Changed>,
}

/// What became of the packets.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    packets: usize,
    by_kind: [u64; 5],
    /// Packets that were on their way during a change.
    met_a_change: u64,
    lost: Vec<u64>,
    twice: Vec<u64>,
    wrong: Vec<String>,
}

impl Log {
    pub(super) const fn new(first: Right) -> Self {
        Self {
            first,
            changes: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, changed: Changed) {
        self.changes.push(changed);
    }

    /// Checks each packet: `sent` says when, `arrivals` by worker which came when.
    pub(super) fn check(&self, sent: &[Instant], arrivals: Vec<Vec<Arrival>>) -> Verdict {
        let mut verdict = Verdict {
            packets: sent.len(),
            ..Verdict::default()
        };
        let mut came: HashMap<u64, (WorkerId, Instant)> = HashMap::new();
        for (worker, arrivals) in (0..).map(WorkerId).zip(arrivals) {
            for (number, at) in arrivals {
                if came.insert(number, (worker, at)).is_some() {
                    verdict.twice.push(number);
                }
            }
        }
        // Nothing has changed when the first packets open the sessions: where they are, they stay.
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|number| came.get(&number).map(|(worker, _)| *worker))
            .collect();
        for (number, sent) in (0..).zip(sent) {
            let Some((worker, arrived)) = came.get(&number) else {
                verdict.lost.push(number);
                continue;
            };
            let kind = Kind::of(number);
            if let Some(count) = verdict.by_kind.get_mut(kind.index()) {
                *count += 1;
            }
            let tables = self.between(*sent, *arrived);
            verdict.met_a_change += u64::from(tables.len() > 1);
            let is_right = match kind {
                Kind::Session(session) => sessions.get(session as usize) == Some(&Some(*worker)),
                Kind::Cookie(named) => named == *worker,
                _ => tables.iter().any(|tables| tables.is_right(kind, *worker)),
            };
            if !is_right {
                verdict
                    .wrong
                    .push(format!("packet {number}, {kind:?}, came to {worker:?}"));
            }
        }
        verdict
    }

    /// The tables that a packet may have met.
    fn between(&self, sent: Instant, arrived: Instant) -> Vec<&Right> {
        let begin = self.changes.partition_point(|change| change.done < sent);
        let before = begin
            .checked_sub(1)
            .and_then(|index| self.changes.get(index));
        let mut tables = vec![before.map_or(&self.first, |change| &change.right)];
        let later = self.changes.iter().skip(begin);
        tables.extend(
            later
                .take_while(|change| change.begun <= arrived)
                .map(|change| &change.right),
        );
        tables
    }
}

impl Right {
    fn is_right(&self, kind: Kind, worker: WorkerId) -> bool {
        match kind {
            Kind::Warm => self.warm.contains(&worker),
            Kind::Shard(SlotId(slot)) => self.slots.get(usize::from(slot)) == Some(&worker),
            Kind::Cold(function) => self.home.get(function as usize) == Some(&worker),
            // These do not depend on the tables that change.
            Kind::Session(_) | Kind::Cookie(_) => false,
        }
    }
}

impl Verdict {
    /// The figures of it.
    pub(super) fn packets(&self) -> Packets {
        Packets {
            packets: self.packets,
            by_kind: Kind::NAMES.into_iter().zip(self.by_kind).collect(),
            met_a_change: self.met_a_change,
            lost: self.lost.len(),
            twice: self.twice.len(),
            at_a_wrong_worker: self.wrong.len(),
        }
    }

    /// # Errors
    /// When a packet was lost, came twice, or came to a wrong worker.
    pub(super) fn verdict(&self) -> Result<()> {
        ensure!(self.lost.is_empty(), "lost: {:?}", first(&self.lost));
        ensure!(
            self.twice.is_empty(),
            "came twice: {:?}",
            first(&self.twice)
        );
        ensure!(
            self.wrong.is_empty(),
            "came to a wrong worker: {:#?}",
            first(&self.wrong)
        );
        ensure!(
            self.met_a_change > 0,
            "no packet met a change: this proves nothing"
        );
        Ok(())
    }
}

fn first<T>(all: &[T]) -> &[T] {
    all.get(..10).unwrap_or(all)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets (", self.packets)?;
        for (name, count) in Kind::NAMES.iter().zip(self.by_kind) {
            write!(f, " {name} {count}")?;
        }
        write!(
            f,
            " ): {} lost, {} twice, {} at a wrong worker; {} were on their way during a change",
            self.lost.len(),
            self.twice.len(),
            self.wrong.len(),
            self.met_a_change
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::loss::kinds::SESSIONS;

    const FIRST: u64 = SESSIONS;

    fn right(worker: u16) -> Right {
        let worker = WorkerId(worker);
        Right {
            warm: vec![worker],
            slots: Arc::new(vec![worker; 16_384]),
            home: [worker; COLD as usize],
        }
    }

    /// Sessions on worker 0, then five packets a millisecond apart that `workers` get, half a millisecond on their way; the
    /// tables mean worker 0, and from 10 ms on worker 1.
    fn check(workers: [u16; 5]) -> Verdict {
        let begin = Instant::now();
        let at = |us: u64| begin + Duration::from_micros(us);
        let mut log = Log::new(right(0));
        log.add(Changed {
            begun: at(10_000),
            done: at(10_100),
            right: right(1),
        });
        let mut sent = vec![begin; FIRST as usize];
        let mut arrivals: Vec<Vec<Arrival>> = vec![Vec::new(); 4];
        arrivals[0] = (0..FIRST).map(|number| (number, at(1))).collect();
        for (index, worker) in (0..).zip(workers) {
            sent.push(at(8_800 + index * 1_000));
            if let Some(sink) = arrivals.get_mut(usize::from(worker)) {
                sink.push((FIRST + index, at(9_300 + index * 1_000)));
            }
        }
        log.check(&sent, arrivals)
    }

    /// Whom the packet means if its kind does not depend on the tables.
    fn fixed(index: u64) -> Option<u16> {
        match Kind::of(FIRST + index) {
            Kind::Session(_) => Some(0),
            Kind::Cookie(worker) => Some(worker.0),
            _ => None,
        }
    }

    /// Good workers: old ones before the change, new ones after it, `met` for those that meet it.
    fn good(met: u16) -> [u16; 5] {
        std::array::from_fn(|index| {
            let by_table = match index {
                0 => 0,
                1 => met,
                _ => 1,
            };
            fixed(index as u64).unwrap_or(by_table)
        })
    }

    #[test]
    fn a_packet_that_meets_a_change_may_come_to_either_worker() {
        for met in [0, 1] {
            let verdict = check(good(met));
            assert_eq!(verdict.met_a_change, 1);
            verdict.verdict().unwrap();
        }
    }

    #[test]
    fn a_lost_packet_and_one_at_a_wrong_worker_are_found() {
        for index in 0..5 {
            let mut workers = good(0);
            workers[index] = 9;
            let verdict = check(workers);
            assert_eq!(verdict.lost, [FIRST + index as u64]);
            verdict.verdict().unwrap_err();
            // The worker of before the change, or of after it, or none of them.
            workers[index] = match (fixed(index as u64), index) {
                (Some(worker), _) => (worker + 1) % 4,
                (None, 0) => 1,
                (None, 1) => 2,
                (None, _) => 0,
            };
            let verdict = check(workers);
            assert_eq!(verdict.wrong.len(), 1, "{index}: {:?}", verdict.wrong);
            verdict.verdict().unwrap_err();
        }
    }
}
