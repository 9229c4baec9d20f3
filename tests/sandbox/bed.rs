//! One pool with a store and a database beside it, and functions written in the test.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

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
    pool::{Invocation, Outcome, Pool, PoolConfig},
};

/// Followed by the pid of the run.
const RUN_PREFIX: &str = "wp-sandbox-";

/// Pools of one run must differ in name, and runs side by side in their parent cgroup.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// By how much everything takes longer here than on a machine that is no emulated one (`cargo xtask kernels`).
pub(crate) fn slower() -> u32 {
    let slower = std::env::var("WARMPATH_TEST_SLOWER");
    slower.map_or(1, |text| text.parse().unwrap())
}

/// So long, on a machine that is no emulated one.
pub(crate) fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds) * slower()
}

/// The manifest's lines `extra` with a time-out that is as long as this machine is slow.
fn slowed(extra: &str) -> String {
    const KEY: &str = "timeout_ms = ";
    let (before, timeout_ms, after) = match extra.split_once(KEY) {
        Some((before, rest)) => {
            let (number, after) = rest.split_once('\n').unwrap_or((rest, ""));
            (before, number.trim().parse().unwrap(), after)
        }
        None => ("", 3_000, extra),
    };
    let timeout_ms = (timeout_ms * slower()).min(900_000);
    format!("{before}{KEY}{timeout_ms}\n{after}")
}

/// A pool and what it needs. To be stopped by [`Bed::stop`].
pub(crate) struct Bed {
    pub(crate) pool: Arc<Pool>,
    pub(crate) store: StoreClient,
    pub(crate) feeds: Arc<db::Router>,
    pub(crate) config: PoolConfig,
    pub(crate) dir: TempDir,
    requests: AtomicU64,
    stop: watch::Sender<bool>,
}

/// What everything of this run is called: the parent cgroup of its pools, and its directories.
pub(crate) fn run_name() -> String {
    static ONCE: Once = Once::new();
    ONCE.call_once(remove_dead_runs);
    format!("{RUN_PREFIX}{}", std::process::id())
}

/// Removes what runs that were killed left behind: nothing lives in it any more, for sandboxes end with
/// the process that made them.
fn remove_dead_runs() {
    let roots = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let roots = roots.map(|entry| entry.path());
    let places = roots.chain([PathBuf::from("/sys/fs/cgroup"), std::env::temp_dir()]);
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

impl Bed {
    /// A pool with one prepared sandbox and the defaults otherwise.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A pool whose configuration `change` has had its way with.
    pub(crate) async fn start_with(change: impl FnOnce(&mut PoolConfig)) -> Self {
        log_when_asked();
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}.", run_name()))
            .tempdir()
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        let store = serve_store(&dir.path().join("store"), stopped).await;
        let name = format!("t{}", NUMBERS.fetch_add(1, Ordering::Relaxed));
        let mut config = PoolConfig::new(name, dir.path().join("state"));
        config.executable = PathBuf::from(env!("CARGO_BIN_EXE_sandbox-init"));
        config.sandbox.cgroup_parent = run_name();
        config.limits.prepared = 1;
        config.limits.start_timeout_ms *= u64::from(slower());
        config.sandbox.prepare_timeout_ms *= u64::from(slower());
        change(&mut config);
        let code = CodeCache::new(store.clone(), dir.path().join("code"));
        let router = open_db(dir.path().join("db")).await;
        let pool = Pool::start(config.clone(), code, Arc::clone(&router))
            .await
            .unwrap();
        Self {
            pool,
            store,
            feeds: router,
            config,
            dir,
            requests: AtomicU64::new(0),
            stop,
        }
    }

    /// Publishes `code` as the function `name`, with `extra` lines in its manifest.
    pub(crate) async fn deploy(&self, name: &str, code: &str, extra: &str) -> Arc<CatalogEntry> {
        self.deploy_files(name, &[("f.py", code)], extra).await
    }

    /// Publishes `files` as the function `name`, with `extra` lines in its manifest.
    pub(crate) async fn deploy_files(
        &self,
        name: &str,
        files: &[(&str, &str)],
        extra: &str,
    ) -> Arc<CatalogEntry> {
        let manifest = format!("name = {name:?}\n{}\n", slowed(extra));
        let mut all = vec![("warmpath.toml", manifest.as_str())];
        all.extend(files);
        self.store.publish(None, bundle(&all)).await.unwrap();
        let qualified = format!("{name}@latest");
        let catalog = self.store.catalog().await.unwrap();
        let entry = catalog
            .entries
            .into_iter()
            .find(|entry| entry.qualified == qualified);
        Arc::new(entry.unwrap())
    }

    /// What the pool is to do with `event`, in the function's own time.
    pub(crate) fn invocation(&self, function: &Arc<CatalogEntry>, event: &Value) -> Invocation {
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
        }
    }

    /// Runs the function on `event`.
    pub(crate) async fn call(&self, function: &Arc<CatalogEntry>, event: Value) -> Outcome {
        self.pool.invoke(self.invocation(function, &event)).await
    }

    /// Runs the function, which has to succeed; its reply.
    pub(crate) async fn reply(&self, function: &Arc<CatalogEntry>, event: Value) -> Value {
        json(&self.call(function, event).await)
    }

    /// Stops everything.
    pub(crate) async fn stop(self) {
        self.pool.stop().await;
        self.stop.send_replace(true);
    }
}

/// The reply of an outcome that has to be a success.
pub(crate) fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.status, Status::Ok, "{}", text(outcome));
    serde_json::from_slice(&outcome.payload).unwrap()
}

/// The message of an outcome.
pub(crate) fn text(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.payload).into_owned()
}

/// A gzip-compressed tar archive of `files`.
pub(crate) fn bundle(files: &[(&str, &str)]) -> Bytes {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap().into()
}

async fn serve_store(path: &Path, stopped: watch::Receiver<bool>) -> StoreClient {
    let repository = Repository::open(path, store::Limits::default())
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = store::router(Arc::new(repository), stopped).unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    StoreClient::new(&url).unwrap()
}

async fn open_db(path: PathBuf) -> Arc<db::Router> {
    let metrics = db::Metrics::unregistered();
    let engine = {
        let metrics = metrics.clone();
        tokio::task::spawn_blocking(move || Embedded::open(&path, db::Options::default(), &metrics))
            .await
            .unwrap()
            .unwrap()
    };
    let slots = SlotSet::new(vec!["0-16383".parse().unwrap()]).unwrap();
    let local = Local {
        engine: Arc::new(engine),
        slots,
    };
    Arc::new(db::Router::new(Some(local), metrics))
}

/// `RUST_LOG=debug` shows what the pool does.
fn log_when_asked() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        drop(
            tracing_subscriber::fmt()
                .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                .with_test_writer()
                .try_init(),
        );
    });
}
