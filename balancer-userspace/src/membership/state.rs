//! The one versioned membership: every worker that is known, by id.
//!
//! Pure: no clock, no sockets. Ids stay with names, because route cookies and pinned tables hold them;
//! an id is only given to another name when all [`MAX_WORKERS`] are taken, and then the one that has
//! been down for longest goes, before any whose drain an operator asked for.

use std::net::{Ipv4Addr, Ipv6Addr};

use ebpf_common::{ids::WorkerId, limits::MAX_WORKERS, maps::WorkerState};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::protocol::SlotRange;
use crate::mac::MacAddress;

/// Who a worker is, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Address of its interface.
    pub address: Ipv4Addr,
    /// MAC address of its interface.
    pub mac: MacAddress,
    /// IPv6 address that encapsulated packets go to.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// The id that it brings with it. Not kept: what it has is beside this.
    #[serde(skip)]
    pub own_id: Option<WorkerId>,
    /// Our interface to reach it by; otherwise the one whose subnet holds its address.
    #[serde(default)]
    pub interface: Option<String>,
    /// Slots whose shard it claims.
    pub slots: Vec<SlotRange>,
    /// Where its db server listens.
    pub db_url: Option<String>,
}

/// Where a worker is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// It connected.
    Heartbeat,
    /// The configuration names it.
    Static,
}

impl Source {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Static => "static",
        }
    }
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub identity: Identity,
    /// Where it is known from.
    pub source: Source,
    /// Whether it answers: connected and within its lease, or static.
    pub is_alive: bool,
    /// Whether it said that it is about to stop.
    pub is_leaving: bool,
    /// Whether an operator asked for its drain.
    pub is_drained: bool,
    /// Version of the membership at which it was last seen to come or go.
    pub changed_at: u64,
}

impl Member {
    /// What it takes.
    #[must_use]
    pub const fn state(&self) -> WorkerState {
        if !self.is_alive {
            WorkerState::Down
        } else if self.is_leaving || self.is_drained {
            WorkerState::Draining
        } else {
            WorkerState::Up
        }
    }
}

/// Why a worker cannot join.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JoinError {
    /// The configuration has a worker of this name.
    #[error(
        "worker `{name}` is a static one of the configuration; choose another name or remove it there"
    )]
    Static {
        /// The name.
        name: String,
    },
    /// The id that it brings with it is that of a live worker.
    #[error(
        "`id` {id} is that of `{by}`, which is up: give each worker an `id` of its own, or none of them one"
    )]
    Taken {
        /// The id.
        id: u16,
        /// Whose it is.
        by: String,
    },
    /// There is no such id.
    #[error("`id` {id} is not below {MAX_WORKERS}")]
    NoSuchId {
        /// The id.
        id: u16,
    },
    /// Every id is taken by a live worker.
    #[error("there are {MAX_WORKERS} live workers already, and no room for `{name}`")]
    Full {
        /// The name.
        name: String,
    },
}

/// All workers that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    version: u64,
    /// By id: looked up some thousand times when one worker goes, for the other workers of its functions.
    members: Vec<Option<Member>>,
}

impl Membership {
    /// Grows with every change.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Every worker, by id.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerId, &Member)> {
        let ids = (0..).map(WorkerId);
        ids.zip(&self.members)
            .filter_map(|(id, member)| Some((id, member.as_ref()?)))
    }

    /// How many workers are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether no worker is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The worker with this id.
    #[must_use]
    pub fn get(&self, id: WorkerId) -> Option<&Member> {
        self.members.get(usize::from(id.0))?.as_ref()
    }

    /// The worker with this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<(WorkerId, &Member)> {
        self.iter().find(|(_, member)| member.identity.name == name)
    }

    /// A worker connected: it is alive from now on, under the id that it brings with it, or that its name had before.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn join(&mut self, identity: Identity) -> Result<WorkerId, JoinError> {
        let known = self
            .named(&identity.name)
            .map(|(id, member)| (id, member.source, member.is_drained));
        if let Some((_, Source::Static, _)) = known {
            return Err(JoinError::Static {
                name: identity.name,
            });
        }
        let id = match (identity.own_id, known) {
            (Some(id), _) => self.check_own(id, &identity.name)?,
            (None, Some((id, ..))) => id,
            (None, None) => self.free_id().ok_or_else(|| JoinError::Full {
                name: identity.name.clone(),
            })?,
        };
        if let Some((before, ..)) = known
            && before != id
        {
            self.members[usize::from(before.0)] = None;
        }
        let is_drained = known.is_some_and(|(.., is_drained)| is_drained);
        self.insert(id, identity, Source::Heartbeat, true, is_drained);
        Ok(id)
    }

    /// `id`, if `name` may have it: not while another one answers to it.
    fn check_own(&self, id: WorkerId, name: &str) -> Result<WorkerId, JoinError> {
        if u32::from(id.0) >= MAX_WORKERS {
            return Err(JoinError::NoSuchId { id: id.0 });
        }
        match self.get(id) {
            Some(member) if member.identity.name != name && member.is_alive => {
                Err(JoinError::Taken {
                    id: id.0,
                    by: member.identity.name.clone(),
                })
            }
            _ => Ok(id),
        }
    }

    /// Takes a worker over from an earlier run under the id it had there.
    pub fn restore(&mut self, id: WorkerId, identity: Identity, is_alive: bool, is_drained: bool) {
        self.insert(id, identity, Source::Heartbeat, is_alive, is_drained);
    }

    /// Makes the workers of the configuration the only static ones.
    ///
    /// # Errors
    /// [`JoinError::Full`].
    pub fn set_static(&mut self, identities: Vec<Identity>) -> Result<(), JoinError> {
        let is_wanted = |member: &Member| {
            let name = &member.identity.name;
            identities.iter().any(|wanted| wanted.name == *name)
        };
        for place in &mut self.members {
            place.take_if(|member| member.source == Source::Static && !is_wanted(member));
        }
        for identity in identities {
            let (id, is_drained) = match self.named(&identity.name) {
                Some((id, member)) => (id, member.is_drained),
                None => (
                    self.free_id().ok_or_else(|| JoinError::Full {
                        name: identity.name.clone(),
                    })?,
                    false,
                ),
            };
            self.insert(id, identity, Source::Static, true, is_drained);
        }
        Ok(())
    }

    /// The worker does not answer any more. Returns whether that is news.
    pub fn suspend(&mut self, id: WorkerId) -> bool {
        self.change(id, |member| member.is_alive = false)
    }

    /// The worker said whether it is about to stop. Returns whether that is news.
    pub fn set_leaving(&mut self, id: WorkerId, is_leaving: bool) -> bool {
        self.change(id, |member| member.is_leaving = is_leaving)
    }

    /// An operator asks for a drain, or takes it back. Returns whether that is news.
    pub fn set_drained(&mut self, id: WorkerId, is_drained: bool) -> bool {
        self.change(id, |member| member.is_drained = is_drained)
    }

    fn change(&mut self, id: WorkerId, edit: impl FnOnce(&mut Member)) -> bool {
        let Some(Some(member)) = self.members.get_mut(usize::from(id.0)) else {
            return false;
        };
        let before = member.clone();
        edit(member);
        let is_news = *member != before;
        if is_news {
            self.version += 1;
            member.changed_at = self.version;
        }
        is_news
    }

    fn insert(
        &mut self,
        id: WorkerId,
        identity: Identity,
        source: Source,
        is_alive: bool,
        is_drained: bool,
    ) {
        self.version += 1;
        let place = usize::from(id.0);
        if self.members.len() <= place {
            self.members.resize(place + 1, None);
        }
        self.members[place] = Some(Member {
            identity,
            source,
            is_alive,
            is_leaving: false,
            is_drained,
            changed_at: self.version,
        });
    }

    /// The lowest id that no name has, or else that of the worker that has been down for longest. An operator's order is
    /// only forgotten where otherwise a live worker would be refused.
    fn free_id(&self) -> Option<WorkerId> {
        let unused = (0..MAX_WORKERS as u16)
            .map(WorkerId)
            .find(|id| self.get(*id).is_none());
        unused.or_else(|| {
            self.iter()
                .filter(|(_, member)| !member.is_alive)
                .min_by_key(|(_, member)| (member.is_drained, member.changed_at))
                .map(|(id, _)| id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn identity(name: &str) -> Identity {
        Identity {
            name: name.to_owned(),
            address: Ipv4Addr::new(10, 80, 0, 11),
            mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
            address6: None,
            own_id: None,
            interface: None,
            slots: Vec::new(),
            db_url: None,
        }
    }

    fn with_id(name: &str, id: WorkerId) -> Identity {
        Identity {
            own_id: Some(id),
            ..identity(name)
        }
    }

    #[test]
    fn an_id_stays_with_its_name() {
        let mut membership = Membership::default();
        let a = membership.join(identity("a")).unwrap();
        let b = membership.join(identity("b")).unwrap();
        assert!(membership.suspend(a));
        assert!(!membership.suspend(a), "the second time is no news");
        assert_eq!(membership.get(a).unwrap().state(), WorkerState::Down);
        assert_ne!(membership.join(identity("c")).unwrap(), a);
        assert_eq!(membership.join(identity("a")).unwrap(), a);
        assert_eq!(membership.get(a).unwrap().state(), WorkerState::Up);
        assert_ne!(a, b);
    }

    #[test]
    fn an_operators_drain_survives_a_reconnection_and_the_workers_own_does_not() {
        let mut membership = Membership::default();
        let a = membership.join(identity("a")).unwrap();
        membership.set_leaving(a, true);
        membership.join(identity("a")).unwrap();
        assert_eq!(membership.get(a).unwrap().state(), WorkerState::Up);
        membership.set_drained(a, true);
        membership.join(identity("a")).unwrap();
        assert_eq!(membership.get(a).unwrap().state(), WorkerState::Draining);
    }

    #[test]
    fn every_change_has_a_version_and_nothing_else_does() {
        let mut membership = Membership::default();
        let a = membership.join(identity("a")).unwrap();
        let version = membership.version();
        assert!(!membership.set_leaving(a, false));
        assert_eq!(membership.version(), version);
        assert!(membership.set_leaving(a, true));
        assert!(membership.version() > version);
    }

    #[test]
    fn when_all_ids_are_taken_the_one_down_for_longest_goes() {
        let mut membership = Membership::default();
        for number in 0..MAX_WORKERS {
            membership.join(identity(&format!("w{number}"))).unwrap();
        }
        assert!(matches!(
            membership.join(identity("late")),
            Err(JoinError::Full { .. })
        ));
        membership.suspend(WorkerId(7));
        membership.suspend(WorkerId(3));
        assert_eq!(membership.join(identity("late")), Ok(WorkerId(7)));
        // Scaled in: drained, then gone.
        for id in [3, 5].map(WorkerId) {
            membership.set_drained(id, true);
            membership.suspend(id);
        }
        membership.suspend(WorkerId(9));
        for (name, id) in [("next", 9), ("then", 3), ("last", 5)] {
            assert_eq!(membership.join(identity(name)), Ok(WorkerId(id)));
        }
        let last = membership.get(WorkerId(5)).unwrap();
        assert_eq!(last.state(), WorkerState::Up, "the order was for another");
    }

    #[test]
    fn a_worker_with_an_id_of_its_own_has_that_one() {
        let mut membership = Membership::default();
        let a = membership.join(identity("a")).unwrap();
        assert_eq!(
            membership.join(with_id("b", a)),
            Err(JoinError::Taken {
                id: a.0,
                by: "a".to_owned()
            })
        );
        let last = WorkerId(MAX_WORKERS as u16 - 1);
        assert_eq!(membership.join(with_id("b", last)), Ok(last));
        assert_eq!(membership.join(identity("b")), Ok(last), "it stays");
        let none = MAX_WORKERS as u16;
        assert_eq!(
            membership.join(with_id("c", WorkerId(none))),
            Err(JoinError::NoSuchId { id: none })
        );
        membership.suspend(a);
        assert_eq!(membership.join(with_id("c", a)), Ok(a));
        assert!(membership.named("a").is_none(), "its id is another's");
    }

    #[test]
    fn a_worker_that_is_given_another_id_is_known_once_and_stays_drained() {
        let mut membership = Membership::default();
        let before = membership.join(identity("a")).unwrap();
        membership.set_drained(before, true);
        let after = WorkerId(9);
        assert_eq!(membership.join(with_id("a", after)), Ok(after));
        assert_eq!(membership.len(), 1);
        assert!(membership.get(before).is_none());
        assert!(membership.get(after).unwrap().is_drained);
    }

    #[test]
    fn a_static_worker_cannot_be_impersonated() {
        let mut membership = Membership::default();
        membership.set_static(vec![identity("s")]).unwrap();
        assert!(matches!(
            membership.join(identity("s")),
            Err(JoinError::Static { .. })
        ));
        membership.set_static(Vec::new()).unwrap();
        assert!(membership.is_empty());
    }
}
