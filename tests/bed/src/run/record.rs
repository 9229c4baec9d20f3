//! The record of a run, as it stands in `/run/warmpath/<id>.json`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::ROOT;

/// `/run` is often in memory; a database's folder must not be.
const DATA_ROOT: &str = "/var/tmp";

/// A process, so named that a recycled pid is not mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that now has `pid`, if there is one.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command name is in parentheses and may hold spaces and parentheses itself.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?;
        // A zombie is dead already: only its parent can remove it.
        if matches!(state, "Z" | "X") {
            return None;
        }
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// Whether that very process still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// What one run has put on the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The prefix of all its names.
    pub id: String,
    /// The process that answers for it.
    pub owner: ProcessId,
    /// Network namespaces under `/run/netns`.
    pub namespaces: Vec<String>,
    /// Processes it started, also those that have ended since.
    pub processes: Vec<ProcessId>,
}

impl Record {
    pub(super) fn new(id: &str) -> Result<Self> {
        let pid = i32::try_from(std::process::id()).context("pid out of range")?;
        Ok(Self {
            id: id.to_owned(),
            owner: ProcessId::of(pid).context("reading /proc/self/stat")?,
            namespaces: Vec::new(),
            processes: Vec::new(),
        })
    }

    /// Reads the record at `path`.
    ///
    /// # Errors
    /// When it is not there or not a record.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} is no record", path.display()))
    }

    /// Where it is kept.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(ROOT).join(format!("{}.json", self.id))
    }

    /// The folder with the files of the run.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new(ROOT).join(&self.id)
    }

    /// The folder with its durable data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        Path::new(DATA_ROOT).join(&self.id)
    }

    pub(super) fn save(&self) -> Result<()> {
        let path = self.path();
        let fresh = path.with_extension("json.new");
        let text = serde_json::to_vec_pretty(self).context("encoding the run's record")?;
        fs::write(&fresh, text).with_context(|| format!("writing {}", fresh.display()))?;
        fs::rename(&fresh, &path).with_context(|| format!("renaming to {}", path.display()))
    }
}
