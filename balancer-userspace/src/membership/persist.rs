//! What outlives the control plane, beside the pinned maps: which name has which id, and what it claimed.
//!
//! The maps hold ids, the file holds their names. It is written to a temporary file and renamed, so
//! that a reader sees the old or the new one whole. It is not synced: after a crash of the machine
//! the pinned maps are gone too, and with them all that refers to the ids.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use ebpf_common::ids::WorkerId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::state::{Identity, Membership};
use crate::policy::orders::Orders;

/// Version of the file's format.
const FORMAT: u32 = 1;

/// Why the state file cannot be used.
#[derive(Debug, Error)]
pub enum PersistError {
    /// It cannot be read.
    #[error("cannot read the state file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is damaged, or of another version.
    #[error("the state file {path} is damaged; remove it to let workers get new ids")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// It was written by another version.
    #[error(
        "the state file {path} has format {found}, this version knows {FORMAT}; remove it to let workers get new ids"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It cannot be written.
    #[error(
        "cannot write the state file {path}; until it can, a restart may give workers other ids"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The content of the state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persisted {
    /// Version of the format.
    pub(crate) format: u32,
    /// Last version of the slot map that workers were told.
    pub slots_version: u64,
    /// The numbers that pools have in the maps.
    #[serde(default)]
    pub pools: BTreeMap<String, u8>,
    /// When the keys were made, in seconds since 1970.
    #[serde(default)]
    pub keys_made_s: u64,
    /// Orders of warmth that were in force.
    #[serde(default)]
    pub orders: Orders,
    /// Every worker that connected once.
    pub workers: Vec<PersistedWorker>,
}

/// A worker in the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistedWorker {
    /// Its id.
    pub id: u16,
    /// Whether it was alive.
    pub is_alive: bool,
    /// Whether an operator asked for its drain.
    pub is_drained: bool,
    /// Who it is.
    #[serde(flatten)]
    pub identity: Identity,
}

/// The membership as it was; those that were alive count as alive until their grace runs out.
#[must_use]
pub fn restore(workers: Vec<PersistedWorker>) -> Membership {
    let mut membership = Membership::default();
    for worker in workers {
        membership.restore(
            WorkerId(worker.id),
            worker.identity,
            worker.is_alive,
            worker.is_drained,
        );
    }
    membership
}

impl Persisted {
    /// What is to be kept of `membership`. Static workers are kept too, for their ids.
    #[must_use]
    pub fn of(membership: &Membership, slots_version: u64) -> Self {
        let workers = membership.iter().map(|(id, member)| PersistedWorker {
            id: id.0,
            is_alive: member.is_alive,
            is_drained: member.is_drained,
            identity: member.identity.clone(),
        });
        Self {
            format: FORMAT,
            slots_version,
            pools: BTreeMap::new(),
            keys_made_s: 0,
            orders: Orders::default(),
            workers: workers.collect(),
        }
    }

    /// Reads the file at `path`; none if there is no such file.
    ///
    /// # Errors
    /// [`PersistError`], except `Write`.
    pub fn read(path: &Path) -> Result<Option<Self>, PersistError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(PersistError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let persisted: Self =
            serde_json::from_slice(&bytes).map_err(|source| PersistError::Damaged {
                path: path.to_owned(),
                source,
            })?;
        if persisted.format != FORMAT {
            return Err(PersistError::Format {
                path: path.to_owned(),
                found: persisted.format,
            });
        }
        Ok(Some(persisted))
    }

    /// Replaces the file at `path`.
    ///
    /// # Errors
    /// [`PersistError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), PersistError> {
        let temporary = path.with_extension("tmp");
        let bytes = serde_json::to_vec_pretty(self).expect("strings and numbers are always JSON");
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(|source| PersistError::Write {
                path: path.to_owned(),
                source,
            })
    }
}

impl Membership {
    /// Whether something that [`Persisted`] keeps differs from `other`.
    #[cfg(test)]
    #[must_use]
    pub fn differs_lastingly(&self, other: &Self) -> bool {
        let lasting = |(id, member): (WorkerId, &super::state::Member)| {
            (
                id,
                member.identity.clone(),
                member.source == super::state::Source::Static,
                member.is_alive,
                member.is_drained,
            )
        };
        !self.iter().map(lasting).eq(other.iter().map(lasting))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::mac::MacAddress;

    #[test]
    fn what_is_written_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("balancer.state.json");
        assert_eq!(Persisted::read(&path).unwrap(), None);

        let mut membership = Membership::default();
        let identity = Identity {
            name: "w0".to_owned(),
            address: Ipv4Addr::new(10, 80, 0, 11),
            mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
            address6: None,
            own_id: None,
            interface: None,
            slots: vec!["0-5460".parse().unwrap()],
            db_url: Some("http://10.80.0.11:7200".to_owned()),
        };
        let id = membership.join(identity.clone()).unwrap();
        membership.set_drained(id, true);
        Persisted::of(&membership, 17).write(&path).unwrap();

        let read = Persisted::read(&path).unwrap().unwrap();
        assert_eq!(read.slots_version, 17);
        let restored = restore(read.workers);
        assert!(!restored.differs_lastingly(&membership));
        assert_eq!(restored.get(id).unwrap().identity, identity);
    }

    #[test]
    fn a_damaged_file_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("balancer.state.json");
        fs::write(&path, "{").unwrap();
        assert!(matches!(
            Persisted::read(&path),
            Err(PersistError::Damaged { .. })
        ));
    }
}
