//! A run: the record of what one process of ours has put on the machine, and its removal.
//!
//! The record is `/run/warmpath/<id>.json`; sockets, logs and the bpffs of the run live in `/run/warmpath/<id>/`,
//! what must be durable in `/var/tmp/<id>/`. Each thing is recorded before it is made. Dropping the [`Run`]
//! removes all of it; when the process was killed instead, the next run (or `cargo xtask clean`) finds a
//! record whose owner is gone and does the same.

pub(crate) mod cgroups;
mod record;
mod remove;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

pub use record::{ProcessId, Record};
pub use remove::{Removed, remove_stale};

/// Where all runs keep their records.
pub const ROOT: &str = "/run/warmpath";

static RUNS: AtomicU32 = AtomicU32::new(0);
/// The runs of this process that are not closed, for [`close_all`].
static OPEN: Mutex<Vec<Arc<State>>> = Mutex::new(Vec::new());

/// What this process has on the machine. Dropping it removes it.
#[derive(Debug)]
pub struct Run {
    state: Arc<State>,
    id: String,
    dir: PathBuf,
    data_dir: PathBuf,
}

#[derive(Debug)]
struct State {
    /// None once the run is closed: then nothing more may be made.
    record: Mutex<Option<Record>>,
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
        let record = Record::new(&id)?;
        let (dir, data_dir) = (record.dir(), record.data_dir());
        {
            let _lock = exclusive()?;
            let create = |dir: &Path| {
                fs::create_dir_all(dir)
                    .with_context(|| format!("creating {} (this needs root)", dir.display()))
            };
            create(Path::new(ROOT))?;
            record.save()?;
            create(&dir)?;
            create(&data_dir)?;
        }
        let state = Arc::new(State {
            record: Mutex::new(Some(record)),
        });
        lock(&OPEN).push(Arc::clone(&state));
        Ok(Self {
            state,
            id,
            dir,
            data_dir,
        })
    }

    /// The prefix of every name this run gives away: `wp…`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder for sockets, logs and configurations; removed with the run.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder for data that must survive a crash, on a disk; removed with the run.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Records that the network namespace `name` is about to be made.
    ///
    /// # Errors
    /// When the record cannot be written, or the run is closed.
    pub fn note_namespace(&self, name: &str) -> Result<()> {
        self.update(|record| record.namespaces.push(name.to_owned()))
    }

    /// Records a process that was just started.
    ///
    /// # Errors
    /// When the record cannot be written, or the run is closed.
    pub fn note_process(&self, process: ProcessId) -> Result<()> {
        self.update(|record| record.processes.push(process))
    }

    fn update(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut guard = lock(&self.state.record);
        let record = guard.as_mut().context("the run has been closed")?;
        change(record);
        record.save()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.state.close();
        lock(&OPEN).retain(|other| !Arc::ptr_eq(other, &self.state));
    }
}

impl State {
    fn close(&self) {
        let record = lock(&self.record).take();
        if let Some(record) = record
            && let Err(error) = remove::remove(&record)
        {
            tracing::error!(run = %record.id, "clean-up is incomplete: {error:#}");
        }
    }
}

/// Removes everything that this process has on the machine, whatever its threads are doing; for the moment
/// before it ends on a signal. Nothing can be made in these runs any more.
pub fn close_all() {
    let open = std::mem::take(&mut *lock(&OPEN));
    for state in open {
        state.close();
    }
}

/// Keeps other processes and threads of ours from making and removing the folders we share.
pub(crate) fn exclusive() -> Result<Flock<File>> {
    let run = File::open("/run").context("opening /run")?;
    Flock::lock(run, FlockArg::LockExclusive)
        .map_err(|(_file, error)| error)
        .context("locking /run")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails, in one line, when the process may not make what a run consists of.
///
/// # Errors
/// Not root.
pub fn need_root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces and XDP need root: run this as root"
    );
    Ok(())
}
