//! Who holds which slots, by what the workers claim. Pure.

use std::sync::Arc;

use ebpf_common::{ids::WorkerId, limits::SLOTS, maps::WorkerState};

use crate::membership::{
    protocol::{SlotOwner, SlotRange},
    state::Membership,
};

/// Slots that two live workers claim. The lower id has them, so that all balancers agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotConflict {
    /// The slots.
    pub range: SlotRange,
    /// Who has them.
    pub winner: WorkerId,
    /// Who claims them too.
    pub loser: WorkerId,
}

/// The owner of every slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// By slot. A slot that only workers which are down claim stays with one of them: the program
    /// checks the worker's state anyway, and nothing needs to be written when it comes back.
    pub owners: Arc<Vec<WorkerId>>,
    /// Slots that live workers disagree about.
    pub conflicts: Vec<SlotConflict>,
}

impl Slots {
    /// Gives each slot to its live claimant with the lowest id, or else to the claimant with the
    /// lowest id that is down, or else to nobody.
    #[must_use]
    pub fn assign(membership: &Membership) -> Self {
        let mut owners = vec![WorkerId::NONE; SLOTS as usize];
        let mut conflicts = Vec::new();
        let (live, down): (Vec<_>, Vec<_>) = membership
            .iter()
            .partition(|(_, member)| member.state() != WorkerState::Down);
        for (id, member) in live {
            for range in &member.identity.slots {
                claim(&mut owners, &mut conflicts, id, *range);
            }
        }
        for (id, member) in down {
            for range in &member.identity.slots {
                claim(&mut owners, &mut Vec::new(), id, *range);
            }
        }
        Self {
            owners: Arc::new(owners),
            conflicts,
        }
    }

    /// Runs of slots with one owner, in order; those without an owner are left out.
    #[must_use]
    pub fn ranges(&self) -> Vec<(SlotRange, WorkerId)> {
        runs(&self.owners)
            .into_iter()
            .filter(|(_, owner)| owner.is_some())
            .collect()
    }

    /// What workers are told: the ranges whose owner is alive.
    #[must_use]
    pub fn live_owners(&self, membership: &Membership) -> Vec<SlotOwner> {
        self.ranges()
            .into_iter()
            .filter_map(|(range, id)| {
                let member = membership.get(id)?;
                (member.state() != WorkerState::Down).then(|| SlotOwner {
                    range,
                    worker: member.identity.name.clone(),
                    db_url: member.identity.db_url.clone(),
                })
            })
            .collect()
    }

    /// The ranges without a live owner.
    #[must_use]
    pub fn unowned(&self, membership: &Membership) -> Vec<SlotRange> {
        let live: Vec<WorkerId> = self
            .owners
            .iter()
            .map(|id| match membership.get(*id) {
                Some(member) if member.state() != WorkerState::Down => WorkerId(0),
                _ => WorkerId::NONE,
            })
            .collect();
        runs(&live)
            .into_iter()
            .filter(|(_, owner)| !owner.is_some())
            .map(|(range, _)| range)
            .collect()
    }
}

fn claim(
    owners: &mut [WorkerId],
    conflicts: &mut Vec<SlotConflict>,
    claimant: WorkerId,
    range: SlotRange,
) {
    for slot in range.first..=range.last {
        let Some(owner) = owners.get_mut(usize::from(slot)) else {
            return;
        };
        if !owner.is_some() {
            *owner = claimant;
        } else if *owner != claimant {
            report(conflicts, *owner, claimant, slot);
        }
    }
}

/// Adds `slot` to the last conflict if it continues it, else begins another.
fn report(conflicts: &mut Vec<SlotConflict>, winner: WorkerId, loser: WorkerId, slot: u16) {
    match conflicts.last_mut() {
        Some(last)
            if last.winner == winner && last.loser == loser && last.range.last + 1 == slot =>
        {
            last.range.last = slot;
        }
        _ => conflicts.push(SlotConflict {
            range: SlotRange {
                first: slot,
                last: slot,
            },
            winner,
            loser,
        }),
    }
}

fn runs(owners: &[WorkerId]) -> Vec<(SlotRange, WorkerId)> {
    let mut runs: Vec<(SlotRange, WorkerId)> = Vec::new();
    for (slot, owner) in (0..).zip(owners) {
        match runs.last_mut() {
            Some((range, last_owner)) if last_owner == owner => range.last = slot,
            _ => runs.push((
                SlotRange {
                    first: slot,
                    last: slot,
                },
                *owner,
            )),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{mac::MacAddress, membership::state::Identity};

    fn join(membership: &mut Membership, name: &str, slots: &[&str]) -> WorkerId {
        membership
            .join(Identity {
                name: name.to_owned(),
                address: Ipv4Addr::new(10, 80, 0, 11),
                mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
                address6: None,
                own_id: None,
                interface: None,
                slots: slots.iter().map(|range| range.parse().unwrap()).collect(),
                db_url: Some(format!("http://{name}:7200")),
            })
            .unwrap()
    }

    fn range(text: &str) -> SlotRange {
        text.parse().unwrap()
    }

    #[test]
    fn the_lower_id_wins_and_the_conflict_is_reported() {
        let mut membership = Membership::default();
        let a = join(&mut membership, "a", &["0-100"]);
        let b = join(&mut membership, "b", &["50-200"]);
        let slots = Slots::assign(&membership);
        assert_eq!(slots.ranges(), [(range("0-100"), a), (range("101-200"), b)]);
        assert_eq!(
            slots.conflicts,
            [SlotConflict {
                range: range("50-100"),
                winner: a,
                loser: b
            }]
        );
        assert_eq!(slots.unowned(&membership), [range("201-16383")]);
    }

    #[test]
    fn a_live_claimant_goes_before_one_that_is_down() {
        let mut membership = Membership::default();
        let a = join(&mut membership, "a", &["0-100"]);
        let b = join(&mut membership, "b", &["50-200"]);
        membership.suspend(a);
        let slots = Slots::assign(&membership);
        assert_eq!(slots.ranges(), [(range("0-49"), a), (range("50-200"), b)]);
        assert_eq!(slots.conflicts, []);
        let live = slots.live_owners(&membership);
        assert_eq!(live.len(), 1);
        assert_eq!(live[0].range, range("50-200"));
        assert_eq!(
            slots.unowned(&membership),
            [range("0-49"), range("201-16383")]
        );
    }

    #[test]
    fn a_worker_that_drains_keeps_its_slots() {
        let mut membership = Membership::default();
        let a = join(&mut membership, "a", &["0-16383"]);
        membership.set_drained(a, true);
        let slots = Slots::assign(&membership);
        assert_eq!(slots.live_owners(&membership).len(), 1);
        assert_eq!(slots.unowned(&membership), []);
    }
}
