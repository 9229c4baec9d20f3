//! The worker's copy of function code: fetched by digest, verified, unpacked, and checked at each use.
//!
//! ```text
//! <dir>/<hex of the digest>/       the unpacked bundle; what sandboxes mount
//! <dir>/<hex of the digest>.json   what is in it: path, length and SHA-256 of each file
//! <dir>/.new-…                     being unpacked; removed when a worker starts
//! ```
//!
//! A bundle appears whole or not at all. Before each use its files are compared with what was verified
//! before: their lengths, inodes and times, and if any of those differ, their hashes. What does not fit is
//! fetched again.

mod record;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use store::{CatalogEntry, ClientError, Digest, Limits, StoreClient, UnpackError, unpack};

use self::record::{Record, Stamps};

/// Prefix of what is not finished, or not wanted any more.
const UNFINISHED: &str = ".new-";

/// Why a function's code is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The store has not got it, or cannot be reached.
    #[error("cannot fetch the code of {function}")]
    Fetch {
        /// Whose code.
        function: String,
        /// What the store's client said.
        #[source]
        source: Box<ClientError>,
    },
    /// The bundle could not be unpacked: it breaks a rule, or the disk is full.
    #[error("cannot unpack the code of {function}")]
    Unpack {
        /// Whose code.
        function: String,
        /// What went wrong.
        #[source]
        source: UnpackError,
    },
    /// The cache directory cannot be read or written.
    #[error("cannot {doing} the code cache at {path}")]
    Cache {
        /// What was attempted.
        doing: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The worker is stopping.
    #[error("the worker is stopping")]
    Stopping,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CodeError {
    let path = path.to_owned();
    move |source| CodeError::Cache {
        doing,
        path,
        source,
    }
}

/// A directory of unpacked bundles, by digest.
#[derive(Debug)]
pub struct CodeCache {
    store: StoreClient,
    dir: PathBuf,
    /// What was seen of each bundle when it was last verified; the lock has it fetched once at a time.
    seen: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<Option<Stamps>>>>>,
    fetches: AtomicU64,
}

impl CodeCache {
    /// A cache in `dir` (made if absent) of what `store` has.
    #[must_use]
    pub fn new(store: StoreClient, dir: impl Into<PathBuf>) -> Self {
        let (seen, fetches) = (Mutex::default(), AtomicU64::new(0));
        let cache = Self {
            store,
            dir: dir.into(),
            seen,
            fetches,
        };
        cache.remove_unfinished();
        cache
    }

    /// The directory of the unpacked bundle of `entry`: from the cache if it is there and unharmed, else
    /// from the store.
    ///
    /// # Errors
    /// When the store cannot be reached, has not got it, or the disk is full; nothing broken is left behind.
    pub async fn ensure(&self, entry: &CatalogEntry) -> Result<PathBuf, CodeError> {
        let seen = {
            let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(entry.digest.clone()).or_default())
        };
        let mut seen = seen.lock().await;
        let place = self.dir.join(entry.digest.hex());
        let (checked, before) = (place.clone(), seen.take());
        match blocking(move || Ok(record::verify(&checked, before))).await? {
            Ok(stamps) => {
                *seen = Some(stamps);
                return Ok(place);
            }
            Err(reason) if place.exists() => {
                tracing::warn!(
                    function = entry.qualified,
                    reason,
                    "code cache: fetching again"
                );
            }
            Err(_) => {}
        }
        *seen = Some(self.fetch(entry, &place).await?);
        Ok(place)
    }

    /// Where the cache lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many bundles were fetched from the store.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    async fn fetch(&self, entry: &CatalogEntry, place: &Path) -> Result<Stamps, CodeError> {
        let function = entry.qualified.clone();
        let number = self.fetches.fetch_add(1, Ordering::Relaxed);
        // The client compares the bytes with the digest.
        let bundle = self
            .store
            .bundle(&entry.digest)
            .await
            .map_err(|source| CodeError::Fetch {
                function: function.clone(),
                source: Box::new(source),
            })?;
        let (dir, place) = (self.dir.clone(), place.to_owned());
        blocking(move || {
            std::fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
            let unfinished = dir.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
            let installed = unpack(&bundle, &unfinished, &Limits::default())
                .map_err(|source| CodeError::Unpack { function, source })
                .and_then(|_| install(&unfinished, &place));
            if installed.is_err() {
                discard(&unfinished);
            }
            installed
        })
        .await
    }

    fn remove_unfinished(&self) {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let is_unfinished =
            |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes());
        for entry in entries.filter(|entry| is_unfinished(&entry.file_name())) {
            discard(&entry.path());
        }
    }
}

/// Puts the unpacked bundle `unfinished` in its place, instead of whatever is there.
fn install(unfinished: &Path, place: &Path) -> Result<Stamps, CodeError> {
    let record = Record::of(unfinished).map_err(failed("read", unfinished))?;
    if place.exists() {
        // Sandboxes may have it mounted: it is moved aside, not emptied under their feet, and then removed.
        let aside = unfinished.with_extension("old");
        std::fs::rename(place, &aside).map_err(failed("replace", place))?;
        discard(&aside);
    }
    record.write(place).map_err(failed("write", place))?;
    std::fs::rename(unfinished, place).map_err(failed("write", place))?;
    record::verify(place, None).map_err(|reason| {
        failed("verify", place)(io::Error::new(io::ErrorKind::InvalidData, reason))
    })
}

fn discard(path: &Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "the code cache keeps rubbish");
        }
        _ => {}
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CodeError> + Send + 'static,
) -> Result<T, CodeError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(CodeError::Stopping))
}
