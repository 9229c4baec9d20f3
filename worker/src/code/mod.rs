//! The worker's copy of function code and of package layers: fetched by digest, verified, unpacked, and
//! checked at each use.
//!
//! ```text
//! <dir>/<hex of the digest>/              an unpacked bundle; what sandboxes mount
//! <dir>/<hex of the digest>.json          what is in it: path and SHA-256 of each file
//! <dir>/layer-<hex of the digest>[.json]  the same of a package layer
//! <dir>/.new-…                            being unpacked; removed when a worker starts
//! ```
//!
//! Each appears whole or not at all. Before each use its files are compared with what was verified before:
//! their lengths, inodes and times, and if any of those differ, their hashes. What does not fit is fetched
//! again. A layer may have thousands of files: it is not looked at again within [`LAYER_TRUST`].

mod record;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use store::{
    CatalogEntry, ClientError, Digest, Limits, StoreClient, UnpackError, unpack, unpack_layer,
};

use self::record::{Record, Stamps};

/// Prefix of what is not finished, or not wanted any more.
const UNFINISHED: &str = ".new-";
/// A layer that was found unharmed is taken to be so for this long: looking at a thousand files takes
/// milliseconds, as long as the rest of a cold start. Nobody but root can write to the cache.
const LAYER_TRUST: Duration = Duration::from_secs(10);
/// What a layer may hold here; the store's own limits are lower as a rule.
const LAYER_LIMITS: Limits = Limits {
    bundle_bytes: 1 << 30,
    unpacked_bytes: 1 << 34,
    files: 1_000_000,
};

/// Why a function's code is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The store has not got it, or cannot be reached.
    #[error("cannot fetch the {what} of {function}")]
    Fetch {
        /// Code, or which layer.
        what: String,
        /// Whose code.
        function: String,
        /// What the store's client said.
        #[source]
        source: Box<ClientError>,
    },
    /// The bundle or layer could not be unpacked: it breaks a rule, or the disk is full.
    #[error("cannot unpack the {what} of {function}")]
    Unpack {
        /// Code, or which layer.
        what: String,
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

/// What an archive in the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Bundle,
    Layer,
}

impl Kind {
    /// The name of its directory.
    fn place(self, digest: &Digest) -> String {
        match self {
            Self::Bundle => digest.hex().to_owned(),
            Self::Layer => format!("layer-{}", digest.hex()),
        }
    }

    fn what(self, digest: &Digest) -> String {
        match self {
            Self::Bundle => "code".to_owned(),
            Self::Layer => format!("layer {digest}"),
        }
    }
}

/// What was seen of an archive's directory when it was last looked at.
#[derive(Debug)]
struct Seen {
    stamps: Stamps,
    at: Instant,
}

/// The lock has it fetched once at a time.
type Slot = Arc<tokio::sync::Mutex<Option<Seen>>>;

/// A directory of unpacked bundles and layers, by digest.
#[derive(Debug)]
pub struct CodeCache {
    store: StoreClient,
    dir: PathBuf,
    seen: Mutex<HashMap<(Kind, Digest), Slot>>,
    fetches: AtomicU64,
    layer_fetches: AtomicU64,
}

/// Where what a function runs with lies, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The function's own code.
    pub bundle: PathBuf,
    /// Its package layers, in the order in which they are searched.
    pub layers: Vec<Layer>,
}

/// An unpacked package layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name inside sandboxes, the same in all of them.
    pub name: String,
    /// Its directory on the host.
    pub place: PathBuf,
}

impl CodeCache {
    /// A cache in `dir` (made if absent) of what `store` has.
    #[must_use]
    pub fn new(store: StoreClient, dir: impl Into<PathBuf>) -> Self {
        let cache = Self {
            store,
            dir: dir.into(),
            seen: Mutex::default(),
            fetches: AtomicU64::new(0),
            layer_fetches: AtomicU64::new(0),
        };
        cache.remove_unfinished();
        cache
    }

    /// The unpacked bundle of `entry` and its layers: from the cache if they are there and unharmed, else
    /// from the store.
    ///
    /// # Errors
    /// When the store cannot be reached, has not got them, or the disk is full; nothing broken is left behind.
    pub async fn ensure(&self, entry: &CatalogEntry) -> Result<Code, CodeError> {
        let function = &entry.qualified;
        let bundle = self.archive(Kind::Bundle, &entry.digest, function).await?;
        let mut layers = Vec::with_capacity(entry.manifest.layers.len());
        for digest in &entry.manifest.layers {
            layers.push(Layer {
                name: layer_name(digest),
                place: self.archive(Kind::Layer, digest, function).await?,
            });
        }
        Ok(Code { bundle, layers })
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

    /// How many layers were fetched from the store.
    #[must_use]
    pub fn layer_fetches(&self) -> u64 {
        self.layer_fetches.load(Ordering::Relaxed)
    }

    async fn archive(
        &self,
        kind: Kind,
        digest: &Digest,
        function: &str,
    ) -> Result<PathBuf, CodeError> {
        let slot = {
            let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry((kind, digest.clone())).or_default())
        };
        let mut seen = slot.lock().await;
        let place = self.dir.join(kind.place(digest));
        let is_trusted = |seen: &Seen| kind == Kind::Layer && seen.at.elapsed() < LAYER_TRUST;
        if seen.as_ref().is_some_and(is_trusted) {
            return Ok(place);
        }
        let (checked, before) = (place.clone(), seen.take().map(|seen| seen.stamps));
        let stamps = match blocking(move || Ok(record::verify(&checked, before))).await? {
            Ok(stamps) => stamps,
            Err(reason) => {
                if place.exists() {
                    tracing::warn!(function, reason, "code cache: fetching again");
                }
                self.fetch(kind, digest, function, &place).await?
            }
        };
        *seen = Some(Seen {
            stamps,
            at: Instant::now(),
        });
        Ok(place)
    }

    async fn fetch(
        &self,
        kind: Kind,
        digest: &Digest,
        function: &str,
        place: &Path,
    ) -> Result<Stamps, CodeError> {
        let (function, what) = (function.to_owned(), kind.what(digest));
        // The client compares the bytes with the digest.
        let (counter, fetched) = match kind {
            Kind::Bundle => (&self.fetches, self.store.bundle(digest).await),
            Kind::Layer => (&self.layer_fetches, self.store.layer(digest).await),
        };
        let number = counter.fetch_add(1, Ordering::Relaxed);
        let archive = fetched.map_err(|source| CodeError::Fetch {
            what: what.clone(),
            function: function.clone(),
            source: Box::new(source),
        })?;
        let (dir, place) = (self.dir.clone(), place.to_owned());
        let name = format!("{UNFINISHED}{}-{kind:?}-{number}", std::process::id());
        blocking(move || {
            std::fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
            let unfinished = dir.join(name);
            let unpacked = match kind {
                Kind::Bundle => unpack(&archive, &unfinished, &Limits::default()).map(drop),
                Kind::Layer => unpack_layer(&archive, &unfinished, &LAYER_LIMITS).map(drop),
            };
            let installed = unpacked
                .map_err(|source| CodeError::Unpack {
                    what,
                    function,
                    source,
                })
                .and_then(|()| install(&unfinished, &place));
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

/// Digits of a layer's digest in its name: 64 bits, so that no two layers of one function meet.
const LAYER_NAME_LEN: usize = 16;

/// What a layer is called in every sandbox: modules remember the path that they were loaded from, and a
/// zygote's children must find them there.
fn layer_name(digest: &Digest) -> String {
    digest.hex().chars().take(LAYER_NAME_LEN).collect()
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
