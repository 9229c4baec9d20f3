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
use store::{Catalog, CatalogEntry, ClientError, LATEST, StoreClient};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

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
    /// The revision of the copy; 0 before there is one.
    revision: watch::Sender<u64>,
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
            revision: watch::Sender::default(),
        }
    }

    /// A catalog that never changes.
    #[must_use]
    pub fn fixed(catalog: Catalog) -> Self {
        let functions = Self {
            index: RwLock::default(),
            store: None,
            refreshed: Mutex::default(),
            revision: watch::Sender::default(),
        };
        functions.replace(catalog);
        functions
    }

    /// The function called `id`.
    #[must_use]
    pub fn get(&self, id: FunctionId) -> Option<Arc<CatalogEntry>> {
        self.index().entries.get(&id).map(Arc::clone)
    }

    /// The function called `name`, as [`Self::get_or_learn`] finds it: `hello`, `hello@3`.
    pub async fn find(&self, name: &str) -> Option<Arc<CatalogEntry>> {
        self.get_or_learn(FunctionId::of(name)).await
    }

    /// The function of this qualified name: `hello@latest`.
    #[must_use]
    pub fn named(&self, qualified: &str) -> Option<Arc<CatalogEntry>> {
        self.get(FunctionId::of(qualified))
    }

    /// The latest version of every function.
    #[must_use]
    pub fn latest(&self) -> Vec<Arc<CatalogEntry>> {
        let is_latest =
            |entry: &&Arc<CatalogEntry>| entry.qualified == format!("{}@{LATEST}", entry.name);
        self.index()
            .entries
            .values()
            .filter(is_latest)
            .map(Arc::clone)
            .collect()
    }

    /// The revision of the copy, as it changes; 0 before there is a copy.
    #[must_use]
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
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

    /// Takes another catalog over.
    pub fn replace(&self, catalog: Catalog) {
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
        self.revision.send_replace(revision);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::{Json, Router, extract::State, routing::get};
    use store::{Digest, Manifest};

    use super::*;

    fn entry(name: &str) -> CatalogEntry {
        CatalogEntry {
            id: FunctionId::of(name),
            name: name.to_owned(),
            qualified: format!("{name}@latest"),
            version: 1,
            digest: Digest::of(b""),
            manifest: toml::from_str::<Manifest>(&format!("name = '{name}'")).unwrap(),
        }
    }

    /// A store that has `hello`, and counts how often it is asked.
    async fn store() -> (Functions, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let catalog = async |State(asked): State<Arc<AtomicU32>>| {
            asked.fetch_add(1, Ordering::Relaxed);
            Json(Catalog {
                revision: 1,
                entries: vec![entry("hello")],
            })
        };
        let routes = Router::new()
            .route("/v1/catalog", get(catalog))
            .with_state(Arc::clone(&asked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (Functions::of(StoreClient::new(&url).unwrap()), asked)
    }

    #[tokio::test]
    async fn a_function_newer_than_the_copy_is_learnt() {
        let (functions, _) = store().await;
        let id = FunctionId::of("hello");
        assert!(functions.get(id).is_none());
        assert!(functions.may_learn());
        assert_eq!(functions.get_or_learn(id).await.unwrap().name, "hello");
        assert!(functions.get(id).is_some());
    }

    #[tokio::test]
    async fn a_flood_of_unknown_functions_asks_the_store_once() {
        let (functions, asked) = store().await;
        let functions = Arc::new(functions);
        let calls: Vec<_> = (0..200)
            .map(|number| {
                let functions = Arc::clone(&functions);
                tokio::spawn(async move { functions.get_or_learn(FunctionId(number)).await })
            })
            .collect();
        for call in calls {
            assert!(call.await.unwrap().is_none());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(!functions.may_learn());
    }

    #[tokio::test]
    async fn a_store_that_is_away_costs_no_more_than_a_refusal() {
        let functions = Functions::of(StoreClient::new("http://127.0.0.1:9").unwrap());
        assert!(functions.get_or_learn(FunctionId(1)).await.is_none());
        assert!(
            Functions::fixed(Catalog::default())
                .get_or_learn(FunctionId(1))
                .await
                .is_none()
        );
    }
}
