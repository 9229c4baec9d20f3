//! A run: the record of what one process of ours has put on the machine, and its removal.
//!
//! The record is `/run/warmpath/<id>.json`; files, sockets and the bpffs of the run live in
//! `/run/warmpath/<id>/`. Each thing is recorded before it is made. Dropping the [`Run`] removes all of it;
//! when the process was killed instead, the next run (or `cargo xtask clean`) finds a record whose owner
//! is gone and does the same.

pub(crate) mod cgroups;
mod record;
mod remove;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result};

pub use record::{ProcessId, Record};
pub use remove::{Removed, remove_stale};

/// Where all runs keep their records.
pub const ROOT: &str = "/run/warmpath";

static RUNS: AtomicU32 = AtomicU32::new(0);

/// What this process has on the machine. Dropping it removes it.
#[derive(Debug)]
pub struct Run {
    record: Mutex<Record>,
    dir: PathBuf,
    id: String,
}

impl Run {
    /// Removes what killed runs left behind, then opens a new run.
    ///
    /// # Errors
    /// When the record cannot be written: not root, or no `/run`.
    pub fn new() -> Result<Self> {
        remove_stale().context("removing what an earlier run left behind")?;
        let id = format!(
            "wp{:x}n{}",
            std::process::id(),
            RUNS.fetch_add(1, Ordering::Relaxed)
        );
        let dir = Path::new(ROOT).join(&id);
        fs::create_dir_all(&dir)
            .with_context(|| format!("creating {} (this needs root)", dir.display()))?;
        let run = Self {
            record: Mutex::new(Record::new(&id)?),
            dir,
            id,
        };
        run.update(|_| ())?;
        Ok(run)
    }

    /// The prefix of every name this run gives away: `wp…`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder for this run's files; removed with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Records that the network namespace `name` is about to be made.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn note_namespace(&self, name: &str) -> Result<()> {
        self.update(|record| record.namespaces.push(name.to_owned()))
    }

    /// Records a process that was just started.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn note_process(&self, process: ProcessId) -> Result<()> {
        self.update(|record| record.processes.push(process))
    }

    fn update(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        record.save()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = remove::remove(&record) {
            tracing::error!(run = %self.id, "clean-up is incomplete: {error:#}");
        }
    }
}
