//! One pool in this process, with a store and a database beside it: what the tests of sandboxes and the benchmarks of
//! the worker stand on.
//!
//! Whatever a run makes on this host carries its name ([`run_name`]), so that a later run finds and removes what a
//! killed one left.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use db::{Embedded, Local, SlotSet};
use ebpf_common::wire::Status;
use serde_json::Value;
use store::{CatalogEntry, Repository, StoreClient};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, time::Instant};
use worker::{
    bill::Caller,
    code::CodeCache,
    pool::{Invocation, Outcome, Pool, PoolConfig, Streams},
};

/// Followed by the pid of the run.
const RUN_PREFIX: &str = "wp-sandbox-";
/// Host user ids of one pool: those of two pools of a run do not meet.
const UIDS_PER_POOL: u32 = 4_096;

/// Pools of one run must differ in name, and runs side by side in their parent cgroup.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// A pool and what it needs. To be stopped by [`PoolBed::stop`].
#[derive(Debug)]
pub struct PoolBed {
    /// The pool.
    pub pool: Arc<Pool>,
    /// Where its functions are published.
    pub store: StoreClient,
    /// The database that its handlers wait for.
    pub feeds: Arc<db::Router>,
    /// What it was started with.
    pub config: PoolConfig,
    /// Everything it keeps on disk.
    pub dir: TempDir,
    requests: AtomicU64,
    stop: watch::Sender<bool>,
}

/// What everything of this run is called: the parent cgroup of its pools, and its directories.
#[must_use]
pub fn run_name() -> String {
    static ONCE: Once = Once::new();
    ONCE.call_once(remove_dead_runs);
    format!("{RUN_PREFIX}{}", std::process::id())
}

/// Removes what runs that were killed left behind: nothing lives in it any more, for sandboxes end with
/// the process that made them.
fn remove_dead_runs() {
    let cgroups = Path::new("/sys/fs/cgroup");
    let roots = std::fs::read_dir(cgroups).into_iter().flatten().flatten();
    let roots = roots.map(|entry| entry.path());
    let places = roots.chain([cgroups.to_owned(), std::env::temp_dir()]);
    let entries = places.filter_map(|place| std::fs::read_dir(place).ok());
    for entry in entries.flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(RUN_PREFIX)
            .and_then(|rest| rest.split('.').next());
        if is_dir(&entry) && pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_tree(&entry.path());
        }
    }
}

/// Not so for a link to a directory.
fn is_dir(entry: &std::fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// As `rm -r`, but leaves files that cannot be removed to the `rmdir` of their directory: in a cgroup
/// they go with it. Another run may be doing the same, so that nothing here has to succeed.
fn remove_tree(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if is_dir(&entry) {
            remove_tree(&entry.path());
        } else {
            drop(std::fs::remove_file(entry.path()));
        }
    }
    drop(std::fs::remove_dir(dir));
}

impl PoolBed {
    /// A pool of one prepared sandbox whose configuration `change` has had its way with. It must name the `executable` that
    /// answers to `sandbox-init`, unless this one does.
    ///
    /// # Errors
    /// When store, database or pool do not start.
    pub async fn start(change: impl FnOnce(&mut PoolConfig)) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}.", run_name()))
            .tempdir()
            .context("making a directory for a pool")?;
        let (stop, stopped) = watch::channel(false);
        let (_url, store) = serve_store(&dir.path().join("store"), stopped).await?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let mut config = PoolConfig::new(format!("t{number}"), dir.path().join("state"));
        config.sandbox.cgroup_parent = run_name();
        let first = UIDS_PER_POOL.saturating_mul(u32::try_from(number)?);
        config.sandbox.uid_first += first;
        config.sandbox.uid_count = UIDS_PER_POOL;
        config.limits.prepared = 1;
        change(&mut config);
        let code = CodeCache::new(store.clone(), dir.path().join("code"));
        let router = open_db(dir.path().join("db")).await?;
        let pool = Pool::start(config.clone(), code, Arc::clone(&router))
            .await
            .context("starting a pool")?;
        Ok(Self {
            pool,
            store,
            feeds: router,
            config,
            dir,
            requests: AtomicU64::new(0),
            stop,
        })
    }

    /// Publishes `code` as the function `name`, with `extra` lines in its manifest.
    ///
    /// # Errors
    /// When the store refuses it.
    pub async fn deploy(&self, name: &str, code: &str, extra: &str) -> Result<Arc<CatalogEntry>> {
        self.deploy_files(name, &[("f.py", code)], extra).await
    }

    /// Publishes `files` as the function `name`, with `extra` lines in its manifest.
    ///
    /// # Errors
    /// When the store refuses it.
    pub async fn deploy_files(
        &self,
        name: &str,
        files: &[(&str, &str)],
        extra: &str,
    ) -> Result<Arc<CatalogEntry>> {
        let manifest = format!("name = {name:?}\n{extra}\n");
        let mut all = vec![("warmpath.toml", manifest.as_str())];
        all.extend(files);
        let bundle = bundle(&all)?;
        self.store
            .publish(None, bundle)
            .await
            .with_context(|| format!("publishing {name}"))?;
        let qualified = format!("{name}@latest");
        let catalog = self.store.catalog().await.context("reading the catalog")?;
        let entry = catalog
            .entries
            .into_iter()
            .find(|entry| entry.qualified == qualified);
        Ok(Arc::new(entry.with_context(|| {
            format!("{qualified} is not in the catalog")
        })?))
    }

    /// What the pool is to do with `event`, in the function's own time.
    pub fn invocation(&self, function: &Arc<CatalogEntry>, event: &Value) -> Invocation {
        Invocation {
            function: Arc::clone(function),
            request_id: self.requests.fetch_add(1, Ordering::Relaxed),
            session: None,
            payload: Bytes::from(event.to_string()),
            http: None,
            arrived: Instant::now(),
            caller_deadline: None,
            wake: None,
            caller: Caller::Unknown,
            streams: Streams::None,
        }
    }

    /// Runs the function on `event`.
    pub async fn call(&self, function: &Arc<CatalogEntry>, event: &Value) -> Outcome {
        self.pool.invoke(self.invocation(function, event)).await
    }

    /// Stops everything.
    pub async fn stop(self) {
        self.pool.stop().await;
        self.stop.send_replace(true);
    }
}

/// The reply of an outcome that has to be a success.
///
/// # Errors
/// What the outcome says instead.
pub fn reply(outcome: &Outcome) -> Result<Value> {
    let text = || String::from_utf8_lossy(&outcome.payload).into_owned();
    ensure!(
        outcome.status == Status::Ok,
        "{}: {}",
        outcome.status.name(),
        text()
    );
    serde_json::from_slice(&outcome.payload).with_context(|| format!("reading {}", text()))
}

/// A gzip-compressed tar archive of `files`.
///
/// # Errors
/// When a path is none that an archive can hold.
pub fn bundle(files: &[(&str, &str)]) -> Result<Bytes> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, path, content.as_bytes())
            .with_context(|| format!("packing {path}"))?;
    }
    Ok(archive.into_inner()?.finish()?.into())
}

/// Serves a store in `path` at a free port until `stopped`; its URL, and a client.
///
/// # Errors
/// When the folder cannot be used.
pub async fn serve_store(
    path: &Path,
    stopped: watch::Receiver<bool>,
) -> Result<(String, StoreClient)> {
    let repository = Repository::open(path, store::Limits::default())
        .await
        .context("opening a store")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let routes = store::router(Arc::new(repository), stopped).context("serving a store")?;
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let client = StoreClient::new(&url).context("speaking to the store")?;
    Ok((url, client))
}

/// A loopback address that nobody uses now, neither for TCP nor for UDP.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
    let address = listener.local_addr()?;
    std::net::UdpSocket::bind(address).context("a free port is not free for UDP")?;
    Ok(address)
}

async fn open_db(path: PathBuf) -> Result<Arc<db::Router>> {
    let metrics = db::Metrics::unregistered();
    let engine = {
        let metrics = metrics.clone();
        tokio::task::spawn_blocking(move || Embedded::open(&path, db::Options::default(), &metrics))
            .await?
            .context("opening a database")?
    };
    let slots = SlotSet::new(vec!["0-16383".parse()?])?;
    let local = Local {
        engine: Arc::new(engine),
        slots,
    };
    Ok(Arc::new(db::Router::new(Some(local), metrics)))
}
