//! The worker's copy of the catalog: every function that may be called, by id.
//!
//! A background task follows the store by long polls. A request for a function that is not in the copy
//! may be newer than the copy, so it makes the worker ask once more before it is refused.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use ebpf_common::ids::FunctionId;
use store::{Catalog, CatalogEntry, ClientError, StoreClient};
use tokio::{sync::Mutex, time::Instant};

/// How long a refresh for one request may take.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(500);
/// Refreshes are at least this far apart, however many unknown functions are called.
const REFRESH_EVERY: Duration = Duration::from_millis(200);
/// How long one long poll waits.
const POLL: Duration = Duration::from_secs(20);
/// Waits after a failed poll, doubling from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What can be called, and where to ask for more.
#[derive(Debug)]
pub struct Functions {
    index: RwLock<Arc<Index>>,
    store: Option<StoreClient>,
    /// When the last refresh began, once there was one.
    refreshed: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Index {
    revision: u64,
    entries: HashMap<FunctionId, Arc<CatalogEntry>>,
}

impl Functions {
    /// An empty copy of the catalog of `store`.
    #[must_use]
    pub fn of(store: StoreClient) -> Self {
        Self {
            index: RwLock::default(),
            store: Some(store),
            refreshed: Mutex::default(),
        }
    }

    /// A catalog that never changes.
    #[must_use]
    pub fn fixed(catalog: Catalog) -> Self {
        let functions = Self {
            index: RwLock::default(),
            store: None,
            refreshed: Mutex::default(),
        };
        functions.replace(catalog);
        functions
    }

    /// The function called `id`.
    #[must_use]
    pub fn get(&self, id: FunctionId) -> Option<Arc<CatalogEntry>> {
        self.index().entries.get(&id).map(Arc::clone)
    }

    /// How many functions can be called, by every name they have.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index().entries.len()
    }

    /// Whether none can.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether asking the store may find a function that is not here: it has not been asked just now.
    #[must_use]
    pub fn may_learn(&self) -> bool {
        // Locked: somebody is asking, and what he finds is for us too.
        self.store.is_some() && self.refreshed.try_lock().map_or(true, |at| is_due(*at))
    }

    /// The function called `id`, after asking the store if it is not here. However many requests ask,
    /// one question at a time goes out, and not more than one in [`REFRESH_EVERY`].
    pub async fn get_or_learn(&self, id: FunctionId) -> Option<Arc<CatalogEntry>> {
        if let Some(entry) = self.get(id) {
            return Some(entry);
        }
        let store = self.store.as_ref()?;
        let mut refreshed = self.refreshed.lock().await;
        if is_due(*refreshed) {
            *refreshed = Some(Instant::now());
            match tokio::time::timeout(REFRESH_TIMEOUT, store.catalog()).await {
                Ok(Ok(catalog)) => self.replace(catalog),
                Ok(Err(error)) => report(&error),
                Err(_elapsed) => {
                    tracing::warn!("the store gave no catalog in time; going on with the old one")
                }
            }
        }
        drop(refreshed);
        self.get(id)
    }

    /// Follows the store for ever.
    pub async fn follow(&self) {
        let Some(store) = &self.store else { return };
        let (shortest, longest) = BACKOFF;
        let mut wait = shortest;
        let mut poll = Duration::ZERO;
        loop {
            let revision = self.index().revision;
            match store.wait_for_change(revision, poll).await {
                Ok(catalog) => {
                    self.replace(catalog);
                    wait = shortest;
                    poll = POLL;
                }
                Err(error) => {
                    // Once in a series, when it has become clear that it is one.
                    if wait == longest / 2 {
                        report(&error);
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(longest);
                }
            }
        }
    }

    fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, catalog: Catalog) {
        let revision = catalog.revision;
        if self.index().revision == revision && !self.is_empty() {
            return;
        }
        let entries = catalog
            .entries
            .into_iter()
            .map(|entry| (entry.id, Arc::new(entry)))
            .collect();
        let index = Arc::new(Index { revision, entries });
        tracing::info!(
            revision,
            functions = index.entries.len(),
            "the catalog changed"
        );
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
    }
}

fn is_due(refreshed: Option<Instant>) -> bool {
    refreshed.is_none_or(|at| at.elapsed() >= REFRESH_EVERY)
}

fn report(error: &ClientError) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "no new catalog; going on with the old one"
    );
}
