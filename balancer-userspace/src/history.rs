//! The policies that were applied, each in a file of its own: `000001.toml`, `000002.toml`, … The last one is in force.
//! `000000.toml` is what they began from, the policy of `balancer.toml` then, kept so that the first one can be rolled back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    api::types::Revision,
    config::{Config, PolicyFile},
};

/// What the first revision began from.
const BASE: u64 = 0;
/// Revisions that are kept.
const KEPT: usize = 100;

/// Why the history cannot be used.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// It cannot be read.
    #[error("cannot read the applied policies in {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A policy in it is not one.
    #[error("{path} is not a policy; remove it to go back to the one before")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A policy in it does not fit the configuration.
    #[error("{path}: `{key}` {problem}; remove it to go back to the one before")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// It cannot be written.
    #[error("cannot write {path}: nothing was applied")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no such revision.
    #[error("there is no revision {revision}; `warmpath map log` lists them")]
    Unknown {
        /// The revision asked for.
        revision: u64,
    },
}

/// The directory.
#[derive(Debug, Clone)]
pub struct History(PathBuf);

impl History {
    /// The one at `dir`, which is made when it is first written to.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The policy in force and its revision; none if none was ever applied.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn last(&self, config: &Config) -> Result<Option<(u64, PolicyFile)>, HistoryError> {
        // Revision 0 is kept, not applied: as long as it is alone, `balancer.toml` may still say something else.
        let Some(revision) = self.revisions()?.pop().filter(|last| *last != BASE) else {
            return Ok(None);
        };
        let policy = self.read(revision)?;
        policy
            .check(config)
            .map_err(|(key, problem)| HistoryError::Value {
                path: self.file(revision),
                key,
                problem,
            })?;
        Ok(Some((revision, policy)))
    }

    /// Every revision, the last one last.
    ///
    /// # Errors
    /// [`HistoryError::Read`].
    pub fn list(&self) -> Result<Vec<Revision>, HistoryError> {
        let revisions = self.revisions()?;
        let made = |revision| {
            let meta = fs::metadata(self.file(revision)).and_then(|meta| meta.modified());
            let since = meta.ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(since.as_secs())
        };
        Ok(revisions
            .into_iter()
            .map(|revision| Revision {
                revision,
                applied_unix_s: made(revision).unwrap_or(0),
            })
            .collect())
    }

    /// The policy of `revision`.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn read(&self, revision: u64) -> Result<PolicyFile, HistoryError> {
        let path = self.file(revision);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HistoryError::Unknown { revision });
            }
            Err(source) => return Err(HistoryError::Read { path, source }),
        };
        toml::from_str(&text).map_err(|source| HistoryError::Parse {
            path,
            source: Box::new(source),
        })
    }

    /// Adds `policy` as the next revision after `before`, which is in force.
    ///
    /// # Errors
    /// [`HistoryError::Write`]; nothing has changed then.
    pub fn add(&self, policy: &PolicyFile, before: &PolicyFile) -> Result<u64, HistoryError> {
        let mut revisions = self.revisions()?;
        if revisions.iter().all(|revision| *revision == BASE) {
            self.write(BASE, before)?;
            revisions = vec![BASE];
        }
        let revision = revisions.last().map_or(BASE, |last| *last) + 1;
        self.write(revision, policy)?;
        revisions.push(revision);
        let old = revisions.len().saturating_sub(KEPT);
        for revision in &revisions[..old] {
            // It is one too many, and no more than that.
            drop(fs::remove_file(self.file(*revision)));
        }
        Ok(revision)
    }

    fn write(&self, revision: u64, policy: &PolicyFile) -> Result<(), HistoryError> {
        let path = self.file(revision);
        let text = toml::to_string(policy).map_err(io::Error::other);
        let beside = path.with_extension("new");
        // Synced, because it is to be in force again after the machine's crash.
        let write = |text: String| -> io::Result<()> {
            fs::create_dir_all(&self.0)?;
            fs::write(&beside, text)?;
            fs::File::open(&beside)?.sync_all()?;
            fs::rename(&beside, &path)
        };
        text.and_then(write)
            .map_err(|source| HistoryError::Write { path, source })
    }

    fn file(&self, revision: u64) -> PathBuf {
        self.0.join(format!("{revision:06}.toml"))
    }

    fn revisions(&self) -> Result<Vec<u64>, HistoryError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                let path = self.0.clone();
                return Err(HistoryError::Read { path, source });
            }
        };
        let number = |path: &Path| {
            let is_policy = path
                .extension()
                .is_some_and(|extension| extension == "toml");
            is_policy.then(|| path.file_stem()?.to_str()?.parse().ok())?
        };
        let mut revisions: Vec<u64> = entries
            .flatten()
            .filter_map(|entry| number(&entry.path()))
            .collect();
        revisions.sort_unstable();
        Ok(revisions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PoolConfig, WorkerPolicy};

    fn config() -> Config {
        let text = "pin_path = \"/sys/fs/bpf/none\"\nadmin_socket = \"/none.sock\"\ninterface = [{ name = \"eth0\" }]";
        Config::parse(text, Path::new("balancer.toml")).unwrap()
    }

    fn policy(pool: &str) -> PolicyFile {
        PolicyFile {
            pools: vec![PoolConfig {
                name: pool.to_owned(),
                workers: vec!["w0".to_owned()],
            }],
            workers: vec![WorkerPolicy {
                name: "w0".to_owned(),
                weight: 3,
                cap: Some(9),
            }],
            ..PolicyFile::default()
        }
    }

    #[test]
    fn the_last_revision_is_in_force_and_every_one_can_be_had_again() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().join("policies"));
        let config = config();
        assert_eq!(history.last(&config).unwrap(), None);
        let base = PolicyFile::default();
        assert_eq!(history.add(&policy("a"), &base).unwrap(), 1);
        assert_eq!(history.add(&policy("b"), &policy("a")).unwrap(), 2);
        assert_eq!(history.last(&config).unwrap(), Some((2, policy("b"))));
        assert_eq!(history.read(1).unwrap(), policy("a"));
        assert_eq!(history.read(0).unwrap(), base);
        assert!(matches!(history.read(3), Err(HistoryError::Unknown { .. })));
        for _ in 0..KEPT {
            history.add(&policy("c"), &policy("b")).unwrap();
        }
        let list = history.list().unwrap();
        assert_eq!((list.len(), list[0].revision), (KEPT, 3));
    }

    #[test]
    fn what_the_first_revision_began_from_is_kept_and_not_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().to_owned());
        history.write(BASE, &policy("old")).unwrap();
        assert_eq!(history.last(&config()).unwrap(), None);
        // A crash came between the two; the configuration was edited since.
        assert_eq!(history.add(&policy("a"), &policy("new")).unwrap(), 1);
        assert_eq!(history.read(BASE).unwrap(), policy("new"));
    }

    #[test]
    fn a_policy_that_fits_no_more_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().to_owned());
        fs::write(
            dir.path().join("000007.toml"),
            "[[worker]]\nname = \"a\"\nweight = 0",
        )
        .unwrap();
        let error = history.last(&config()).unwrap_err();
        assert!(error.to_string().contains("worker \"a\""), "{error}");
    }
}
