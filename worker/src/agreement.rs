//! What the assignments of several control planes come to. Balancers behind ECMP know nothing of each other: whatever
//! they must have in common for a cookie to hold at each, they have from the same files, and the worker is who sees whether they do.

use balancer_userspace::membership::{
    client::Told,
    protocol::{Assignment, KeepWarm},
};
use thiserror::Error;

/// What they have told so far, in the order of the configuration.
#[derive(Debug)]
pub(crate) struct Agreement<'a>(&'a [Told]);

/// Why a cookie that one balancer takes is none to another.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Disagreement {
    /// It names another worker there.
    #[error("they give this worker the ids {0} and {1}: set `id` in worker.toml")]
    Ids(u16, u16),
    /// It is opened with another key.
    #[error(
        "their keys are not the same (epochs {0} and {1}): give their `[keys]` one `secret_file` and one `rotate_s`, and their hosts \
         the time"
    )]
    Keys(u8, u8),
    /// The same, and one of the two may know better than what it has told.
    #[error(
        "one of them was last heard in another epoch of the keys (epochs {0} and {1}): start it, or take it out of `control_plane` \
         in worker.toml; until then its balancer sends requests with cookies by their session or to any warm worker"
    )]
    Away(u8, u8),
}

impl<'a> Agreement<'a> {
    /// What `told` comes to; none of none.
    pub(crate) fn of(told: &'a [Told]) -> Option<Self> {
        (!told.is_empty()).then_some(Self(told))
    }

    /// Who is followed where they do not agree: the first that can still say otherwise.
    fn first(&self) -> &'a Told {
        let connected = self.0.iter().find(|it| it.is_connected);
        connected.unwrap_or(&self.0[0])
    }

    fn assignments(&self) -> impl Iterator<Item = &'a Assignment> {
        self.0.iter().map(|told| &told.assignment)
    }

    /// Whose id and keys cookies are made with: of those that agree with the first, one in the older epoch. The balancers
    /// begin an epoch each by its own clock, and each still opens what is of the one before.
    pub(crate) fn seal(&self) -> &'a Assignment {
        let first = self.first();
        let is_behind = |it: &&Told| {
            it.assignment.key_epoch.wrapping_add(1) == first.assignment.key_epoch
                && difference(it, first).is_none()
        };
        let behind = self.0.iter().find(is_behind);
        &behind.unwrap_or(first).assignment
    }

    /// Why cookies do not hold at all of them, if so.
    pub(crate) fn disagreement(&self) -> Option<Disagreement> {
        let first = self.first();
        self.0.iter().find_map(|it| difference(first, it))
    }

    /// Who has told last who holds which slots.
    pub(crate) fn slots(&self) -> &'a Assignment {
        let newest = self.assignments().max_by_key(|it| it.slots_version);
        newest.unwrap_or_else(|| &self.first().assignment)
    }

    /// All that any of them wants warm.
    pub(crate) fn keep_warm(&self) -> Vec<KeepWarm> {
        let mut all: Vec<KeepWarm> = Vec::new();
        for keep in self.assignments().flat_map(|it| &it.keep_warm) {
            match all.iter_mut().find(|it| it.function == keep.function) {
                Some(it) => {
                    it.instances = it.instances.max(keep.instances);
                    it.tell |= keep.tell;
                    it.code |= keep.code;
                }
                None => all.push(*keep),
            }
        }
        all
    }
}

/// Why a cookie of one of the two does not hold at the other.
fn difference(one: &Told, other: &Told) -> Option<Disagreement> {
    let (a, b) = (&one.assignment, &other.assignment);
    if a.worker_id != b.worker_id {
        return Some(Disagreement::Ids(a.worker_id, b.worker_id));
    }
    let has_key_of = |held: &Assignment, of: &Assignment| {
        held.cookie_key(of.key_epoch) == of.cookie_key(of.key_epoch)
    };
    let is_next = |it: &Assignment, before: &Assignment| {
        before.key_epoch.wrapping_add(1) == it.key_epoch && has_key_of(it, before)
    };
    let is_same = a.key_epoch == b.key_epoch && has_key_of(a, b);
    if is_same || is_next(a, b) || is_next(b, a) {
        return None;
    }
    let disagreement = if one.is_connected && other.is_connected {
        Disagreement::Keys
    } else {
        Disagreement::Away
    };
    Some(disagreement(a.key_epoch, b.key_epoch))
}

#[cfg(test)]
mod tests {
    use ebpf_common::ids::FunctionId;

    use super::*;

    /// As a control plane with the usual secret tells it.
    fn assignment(worker_id: u16, key_epoch: u8) -> Assignment {
        let of = |epoch: u8| [u64::from(epoch), 7];
        let mut cookie_keys = [[0; 2]; 2];
        for epoch in [key_epoch.wrapping_sub(1), key_epoch] {
            cookie_keys[usize::from(epoch & 1)] = of(epoch);
        }
        Assignment {
            worker_id,
            key_epoch,
            cookie_keys,
            load: None,
            slots_version: 1,
            slots: Vec::new(),
            heartbeat_ms: 20,
            keep_warm: Vec::new(),
        }
    }

    fn told(worker_id: u16, key_epoch: u8) -> Told {
        Told {
            assignment: assignment(worker_id, key_epoch),
            is_connected: true,
        }
    }

    fn away(told: Told) -> Told {
        Told {
            is_connected: false,
            ..told
        }
    }

    fn seal_and_difference(told: &[Told]) -> (u8, Option<Disagreement>) {
        let all = Agreement::of(told).unwrap();
        (all.seal().key_epoch, all.disagreement())
    }

    #[test]
    fn of_two_epochs_the_older_one_is_sealed_with() {
        assert!(Agreement::of(&[]).is_none());
        for (first, second, sealed) in [
            (4, 4, 4),
            (5, 4, 4),
            (4, 5, 4),
            (0, 255, 255),
            (255, 0, 255),
        ] {
            let both = [told(3, first), told(3, second)];
            assert_eq!(seal_and_difference(&both), (sealed, None));
        }
        let three = [told(3, 5), told(3, 5), told(3, 4)];
        assert_eq!(seal_and_difference(&three), (4, None));
    }

    #[test]
    fn where_they_do_not_agree_the_first_is_followed_and_the_reason_told() {
        let ids = [told(3, 4), told(5, 3)];
        let expected = Some(Disagreement::Ids(3, 5));
        assert_eq!(seal_and_difference(&ids), (4, expected));
        let gone = [told(3, 4), told(3, 2)];
        let expected = Some(Disagreement::Keys(4, 2));
        assert_eq!(seal_and_difference(&gone), (4, expected));
        for epoch in [4, 5] {
            let mut stranger = told(3, epoch);
            stranger.assignment.cookie_keys = [[1, 1], [2, 2]];
            let expected = Some(Disagreement::Keys(5, epoch));
            assert_eq!(seal_and_difference(&[told(3, 5), stranger]), (5, expected));
        }
    }

    #[test]
    fn one_that_is_away_is_followed_as_long_as_the_others_open_what_it_has() {
        let alone = [away(told(3, 4))];
        assert_eq!(seal_and_difference(&alone), (4, None));
        for (epoch, sealed, disagreement) in [
            (4, 4, None),
            (5, 4, None),
            (6, 6, Some(Disagreement::Away(6, 4))),
        ] {
            for both in [
                [away(told(3, 4)), told(3, epoch)],
                [told(3, epoch), away(told(3, 4))],
            ] {
                assert_eq!(seal_and_difference(&both), (sealed, disagreement.clone()));
            }
        }
        let none = [away(told(3, 4)), away(told(3, 7))];
        assert_eq!(
            seal_and_difference(&none),
            (4, Some(Disagreement::Away(4, 7)))
        );
    }

    #[test]
    fn slots_are_those_of_the_newest_and_warmth_is_what_any_wants() {
        let keep = |name: &str, instances, tell, code| KeepWarm {
            function: FunctionId::of(name),
            instances,
            tell,
            code,
        };
        let first = Assignment {
            slots_version: 5,
            keep_warm: vec![keep("a", 2, false, true), keep("b", 1, true, false)],
            ..assignment(3, 4)
        };
        let second = Assignment {
            slots_version: 9,
            keep_warm: vec![keep("c", 1, false, false), keep("a", 1, true, false)],
            ..assignment(3, 4)
        };
        let both = [first, second].map(|assignment| Told {
            assignment,
            is_connected: true,
        });
        let all = Agreement::of(&both).unwrap();
        assert_eq!(all.slots().slots_version, 9);
        let expected = [
            keep("a", 2, true, true),
            keep("b", 1, true, false),
            keep("c", 1, false, false),
        ];
        assert_eq!(all.keep_warm(), expected);
    }
}
