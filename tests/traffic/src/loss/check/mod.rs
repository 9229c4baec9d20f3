//! Where each packet came to, against where it might have.

use std::{collections::HashMap, fmt, net::Ipv4Addr, sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use ebpf_common::{
    ids::{SlotId, WorkerId},
    maps::{home_hash, home_index},
};

use super::{
    kinds::{Kind, SESSIONS, cold, flow_spread, source_port},
    report::Packets,
    sink::Arrival,
};

/// Whom the tables mean at one time.
#[derive(Debug, Clone)]
pub(super) struct Right {
    pub(super) warm: Vec<WorkerId>,
    pub(super) slots: Arc<Vec<WorkerId>>,
    /// The Maglev table.
    pub(super) home: Arc<Vec<WorkerId>>,
    /// Whose flows they are.
    pub(super) client: Ipv4Addr,
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
    by_kind: [u64; Kind::COUNT],
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
        // A flow is placed by the tables that its first packet meets, and stays.
        let mut flows: HashMap<u64, WorkerId> = HashMap::new();
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
            let by_tables = || tables.iter().any(|tables| tables.is_right(kind, *worker));
            let is_right = match kind {
                Kind::Session(session) => sessions.get(session as usize) == Some(&Some(*worker)),
                Kind::Cookie(named) => named == *worker,
                Kind::Flow(flow) => match flows.insert(flow, *worker) {
                    Some(before) => before == *worker,
                    None => by_tables(),
                },
                Kind::Warm | Kind::Tunnelled | Kind::Shard(_) | Kind::Cold(_) => by_tables(),
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
            Kind::Warm | Kind::Tunnelled => self.warm.contains(&worker),
            Kind::Shard(SlotId(slot)) => self.slots.get(usize::from(slot)) == Some(&worker),
            Kind::Cold(function) => self.is_home(home_hash(cold(function)), worker),
            Kind::Flow(flow) => source_port(flow)
                .is_some_and(|port| self.is_home(flow_spread(self.client, port), worker)),
            // These do not depend on the tables that change.
            Kind::Session(_) | Kind::Cookie(_) => false,
        }
    }

    fn is_home(&self, hash: u64, worker: WorkerId) -> bool {
        let index = home_index(0, 0, hash, 0);
        self.home.get(index as usize) == Some(&worker)
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
mod tests;
