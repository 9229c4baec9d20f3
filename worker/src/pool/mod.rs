//! The pool of instances: where a request meets a sandbox.
//!
//! ```text
//! request ─▶ functions ─▶ roster ─▶ idle instance ─▶ its socket ─▶ answer
//!                            │ none                                   │
//!                            ▼                                        ▼
//!                          queue ◀── start: stock + code + load    release, or drop
//!                                      ▲ budget, eviction             │
//!                                      └──────────── undertaker ◀─────┘
//! ```
//!
//! A warm request touches two short locks and one socket; everything slow (sandboxes, code, ends of
//! instances) happens in tasks of its own (`keeper`).
//!
//! Invariants: an instance serves no more requests at a time than its manifest allows, as a rule one; after a
//! timeout, a crash, a bad reply or a lack of memory it serves no other; the memory limits of all instances together stay within the budget; whoever
//! drops an [`Instance`](instance::Instance) ends it, so that nothing leaks by forgetting.

mod budget;
mod config;
mod connection;
mod conversation;
mod function;
mod functions;
mod instance;
mod invocation;
mod keeper;
mod packages;
mod policy;
mod prewarm;
mod profiles;
mod roster;
mod serve;
mod serving;
mod sessions;
mod shared;
mod shelf;
mod standing;
mod start;
mod stock;
mod turns;
mod verdict;
mod zygotes;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ebpf_common::ids::FunctionId;
use prometheus::{Histogram, HistogramOpts, exponential_buckets};
use store::CatalogEntry;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::TaskTracker;

use self::{
    budget::Budget, function::Standing, functions::Functions, stock::Stock, zygotes::Zygotes,
};
pub use self::{
    config::{PoolConfig, PoolLimits, SandboxConfig},
    invocation::{Deadline, Invocation, Outcome, Path, PoolSnapshot, Streams},
    prewarm::{PrewarmError, PrewarmReport, PrewarmRequest},
    profiles::ProfileError,
    standing::{FunctionStanding, PoolStanding},
    zygotes::ZygoteStatus,
};
use crate::{
    bill::{BillReport, Ledger, Line},
    code::CodeCache,
    cpu_latency::{CpuLatency, CpuLatencyError, CpuLatencyStanding},
    log::Logs,
    rootfs::{OpenError, System},
    runtime::{self, zygote::Zygote},
    sandbox::{
        CgroupError, CheckError, Executable, Founders, Root, Sandbox, SandboxMaker, Uids,
        WorkerCgroup,
        network::{Network, NetworkError},
        seccomp::{self, Sockets},
    },
};

/// Why a pool could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// This machine or this process cannot make sandboxes.
    #[error(transparent)]
    Sandbox(#[from] CheckError),
    /// The kernel takes no limit of its CPU latency.
    #[error(transparent)]
    CpuLatency(#[from] CpuLatencyError),
    /// The worker's cgroup could not be had.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The system that sandboxes shall have is not there.
    #[error("sandbox.rootfs")]
    Rootfs(#[from] OpenError),
    /// The libraries of the runtimes could not be written.
    #[error(transparent)]
    Library(#[from] runtime::InstallError),
    /// No system call filter.
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
    /// The state directory is of no use.
    #[error("cannot use the state directory {path}")]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The first sandbox could not be made.
    #[error("cannot make the first sandbox: {0}")]
    First(String),
    /// There can be no networks for functions.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// What happened so far.
#[derive(Debug)]
pub(crate) struct Counters {
    cold_starts: AtomicU64,
    prewarmed: AtomicU64,
    code_ahead: AtomicU64,
    /// In the order of [`Path::ALL`].
    paths: [AtomicU64; Path::ALL.len()],
    thaw_seconds: Histogram,
    evictions: AtomicU64,
    evicted_for_memory: AtomicU64,
    destroyed: AtomicU64,
    log_bytes: Arc<AtomicU64>,
    unbilled_cpu_ns: AtomicU64,
    secret_failures: AtomicU64,
    profile_samples: AtomicU64,
}

impl Counters {
    fn new() -> Result<Self, PoolError> {
        let options = HistogramOpts::new(
            "worker_thaw_seconds",
            "What it takes to let a paused instance go on.",
        );
        // From 10 microseconds to 20 milliseconds.
        let buckets = exponential_buckets(0.000_01, 2.0, 12);
        let thaw_seconds = buckets
            .and_then(|buckets| Histogram::with_opts(options.buckets(buckets)))
            .map_err(|error| PoolError::First(error.to_string()))?;
        Ok(Self {
            cold_starts: AtomicU64::new(0),
            prewarmed: AtomicU64::new(0),
            code_ahead: AtomicU64::new(0),
            paths: Default::default(),
            thaw_seconds,
            evictions: AtomicU64::new(0),
            evicted_for_memory: AtomicU64::new(0),
            destroyed: AtomicU64::new(0),
            log_bytes: Arc::default(),
            unbilled_cpu_ns: AtomicU64::new(0),
            secret_failures: AtomicU64::new(0),
            profile_samples: AtomicU64::new(0),
        })
    }
}

/// All instances of one worker.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    code: CodeCache,
    db: Arc<db::Router>,
    cgroup: Arc<WorkerCgroup>,
    cpu_latency: Arc<CpuLatency>,
    /// What sandboxes have as their system; held until the pool goes.
    system: System,
    functions: Functions,
    stock: Arc<Stock>,
    /// Of sandboxes with a network, if this worker has one for them.
    networked: Option<Arc<Stock>>,
    zygotes: Arc<Zygotes>,
    budget: Arc<Budget>,
    counters: Arc<Counters>,
    ledger: Arc<Ledger>,
    logs: Arc<Logs>,
    /// Requests in a queue.
    waiting: AtomicUsize,
    /// Everything that runs a handler, to kill it when the worker stops.
    running: Mutex<Vec<Weak<Sandbox>>>,
    warm: watch::Sender<Vec<FunctionId>>,
    starts: mpsc::UnboundedSender<keeper::Wanted>,
    /// Has idle instances looked at before it is time to.
    tend_now: Arc<Notify>,
    undertaker: mpsc::UnboundedSender<instance::Remains>,
    stopping: AtomicBool,
    /// What must have ended before the worker's own cgroup can go.
    tasks: TaskTracker,
    keepers: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Pool {
    /// Starts a pool: the zygote, and the first prepared sandboxes.
    ///
    /// # Errors
    /// When sandboxes cannot be made here; the message is one line and says how to mend it.
    pub async fn start(
        config: PoolConfig,
        code: CodeCache,
        db: Arc<db::Router>,
    ) -> Result<Arc<Self>, PoolError> {
        let tasks = TaskTracker::new();
        let counters = Counters::new()?;
        let cpu_latency = Arc::new(CpuLatency::new(&config.cpu_latency)?);
        let Grounds {
            cgroup,
            system,
            plain: stock,
            networked,
        } = {
            let (config, tasks) = (config.clone(), tasks.clone());
            tokio::task::spawn_blocking(move || set_up(&config, tasks))
                .await
                .unwrap_or_else(|error| Err(PoolError::First(error.to_string())))?
        };
        // Whatever is wrong with this host shows in the first sandbox, and the operator hears it now.
        let first = stock.take().await;
        stock.put_back(first.map_err(|error| PoolError::First(chain(&error)))?);
        let (starts, started) = mpsc::unbounded_channel();
        let (undertaker, ended) = mpsc::unbounded_channel();
        let limits = &config.limits;
        let zygotes = Zygotes::new(limits, Arc::clone(&stock), tasks.clone());
        let pool = Arc::new(Self {
            functions: Functions::new(limits.clone()),
            budget: Budget::new(limits.memory_mb),
            config,
            code,
            db,
            cgroup,
            cpu_latency,
            system,
            stock,
            networked,
            zygotes,
            counters: Arc::new(counters),
            ledger: Arc::default(),
            logs: Arc::default(),
            waiting: AtomicUsize::new(0),
            running: Mutex::default(),
            warm: watch::Sender::new(Vec::new()),
            starts,
            tend_now: Arc::default(),
            undertaker,
            stopping: AtomicBool::new(false),
            tasks,
            keepers: Mutex::default(),
        });
        let keepers = vec![
            tokio::spawn(keeper::start_instances(Arc::downgrade(&pool), started)),
            tokio::spawn(keeper::bury(Arc::downgrade(&pool), ended)),
            tokio::spawn(keeper::tend(Arc::downgrade(&pool))),
            tokio::spawn(Arc::clone(&pool.cpu_latency).tend()),
        ];
        *pool.keepers.lock().unwrap_or_else(PoisonError::into_inner) = keepers;
        Ok(pool)
    }

    /// The functions that have an instance, as they change.
    #[must_use]
    pub fn warm(&self) -> watch::Receiver<Vec<FunctionId>> {
        self.warm.subscribe()
    }

    /// Whether the kernel is asked that idle processors be easy to wake.
    #[must_use]
    pub fn cpu_latency(&self) -> CpuLatencyStanding {
        self.cpu_latency.standing()
    }

    /// The package zygotes that run.
    #[must_use]
    pub fn zygotes(&self) -> Vec<ZygoteStatus> {
        self.zygotes.list()
    }

    /// Sets how many instances this worker keeps of which functions, whether or not anyone calls; of all others
    /// none. Their code is fetched, and instances are started, from now on.
    pub fn keep_warm(&self, wanted: &[(Arc<CatalogEntry>, usize)]) {
        let wanted: Vec<_> = wanted
            .iter()
            .map(|(entry, count)| (self.functions.of(entry), *count))
            .collect();
        for function in self.functions.all() {
            let count = wanted
                .iter()
                .filter(|(other, _)| Arc::ptr_eq(other, &function))
                .map(|(_, count)| *count)
                .max();
            function.keep_warm(count.unwrap_or(0));
        }
        self.tend_now.notify_one();
    }

    /// How long thawing takes, to be registered by whoever shows it.
    #[must_use]
    pub fn thaw_seconds(&self) -> Histogram {
        self.counters.thaw_seconds.clone()
    }

    /// The name of the system that sandboxes have.
    #[must_use]
    pub fn rootfs(&self) -> &str {
        &self.system.name
    }

    /// The pool for people.
    #[must_use]
    pub fn standing(&self) -> PoolStanding {
        PoolStanding {
            worker: self.config.worker.clone(),
            rootfs: self.system.name.clone(),
            cpu_latency: self.cpu_latency(),
            memory_limit_mb: self.budget.limit_mb(),
            numbers: self.snapshot(),
            functions: self.functions(),
        }
    }

    /// Every function with its instances, for people.
    #[must_use]
    pub fn functions(&self) -> Vec<FunctionStanding> {
        let functions = self.functions.all();
        let mut all: Vec<_> = functions.iter().map(|f| FunctionStanding::of(f)).collect();
        all.sort_by(|a, b| a.function.cmp(&b.function));
        all
    }

    /// The pool's numbers now.
    #[must_use]
    pub fn snapshot(&self) -> PoolSnapshot {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let zygotes = self.zygotes.list();
        let mut snapshot = PoolSnapshot {
            prepared: self.stock.len(),
            waiting: self.waiting.load(Ordering::Relaxed),
            memory_mb: self.budget.used_mb(),
            cold_starts: count(&self.counters.cold_starts),
            prewarmed: count(&self.counters.prewarmed),
            code_ahead: count(&self.counters.code_ahead),
            paths: std::array::from_fn(|path| count(&self.counters.paths[path])),
            evictions: count(&self.counters.evictions),
            evicted_for_memory: count(&self.counters.evicted_for_memory),
            destroyed: count(&self.counters.destroyed),
            log_bytes: count(&self.counters.log_bytes),
            unbilled_cpu_ns: count(&self.counters.unbilled_cpu_ns),
            secret_failures: count(&self.counters.secret_failures),
            profile_samples: count(&self.counters.profile_samples),
            zygote_restarts: self.stock.zygote_restarts(),
            landlock: self.stock.landlock(),
            networks: self.networked.as_ref().map_or(0, |stock| stock.networks()),
            zygotes: zygotes.len(),
            zygote_memory_mb: zygotes.iter().map(|zygote| zygote.memory_mb).sum(),
            zygotes_grown: count(&self.zygotes.counters.grown),
            zygotes_ended: count(&self.zygotes.counters.ended),
            zygotes_unfit: count(&self.zygotes.counters.unfit),
            zygote_forks: count(&self.zygotes.counters.forks),
            zygote_ready: zygotes.iter().map(|zygote| zygote.ready).sum(),
            ..PoolSnapshot::default()
        };
        for function in self.functions.all() {
            let Standing {
                demand,
                busy,
                paused,
            } = function.standing();
            snapshot.busy += busy;
            snapshot.paused += paused;
            snapshot.idle += demand.live - busy - paused;
            snapshot.starting += demand.starting;
            snapshot.functions += usize::from(demand.live > 0);
        }
        snapshot
    }

    /// What all requests were billed, or those of the last `within`.
    #[must_use]
    pub fn bills(&self, within: Option<Duration>) -> BillReport {
        self.ledger.report(&self.config.worker, within)
    }

    /// What functions print.
    #[must_use]
    pub fn logs(&self) -> &Arc<Logs> {
        &self.logs
    }

    /// The sums by function.
    pub(crate) fn bills_by_function(&self) -> BTreeMap<String, Line> {
        self.ledger.by_function()
    }

    /// Ends all instances and removes everything the pool made on this host. Requests still running are
    /// cut short; new ones are answered `Draining`.
    pub async fn stop(&self) {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        for function in self.functions.all() {
            function.dismiss();
            function.keep_warm(0);
            drop(function.take_all_idle());
        }
        for sandbox in self.running().drain(..) {
            // Requests under way see their sockets close, and drop what is left.
            sandbox.upgrade().inspect(|sandbox| sandbox.kill());
        }
        let stocks = [Some(Arc::clone(&self.stock)), self.networked.clone()];
        let zygotes = Arc::clone(&self.zygotes);
        let stop = move || {
            zygotes.stop();
            stocks.iter().flatten().for_each(|stock| stock.stop());
        };
        drop(tokio::task::spawn_blocking(stop).await);
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.ended())
            .await
            .is_err()
        {
            tracing::error!("instances do not end: some of them are left behind");
        }
        let keepers =
            std::mem::take(&mut *self.keepers.lock().unwrap_or_else(PoisonError::into_inner));
        keepers.iter().for_each(tokio::task::JoinHandle::abort);
        let cgroup = Arc::clone(&self.cgroup);
        drop(tokio::task::spawn_blocking(move || cgroup.remove()).await);
    }

    /// Returns when no instance is left, nor anything that could make one.
    async fn ended(&self) {
        loop {
            self.tasks.wait().await;
            if self.budget.used_mb() == 0 && self.tasks.is_empty() {
                return;
            }
            // A request cut short is about to drop its instance.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Sandbox>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Tells who watches which functions are warm.
    fn publish_warm(&self) {
        self.warm.send_if_modified(|before| {
            let now = self.functions.warm();
            let changed = *before != now;
            *before = now;
            changed
        });
    }
}

/// How long stopping waits for what was killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Sandboxes of both stocks share a cgroup and so a row of numbers; those with a network begin here.
const FIRST_NETWORKED: u64 = 1 << 40;

/// What sandboxes are made from.
struct Grounds {
    cgroup: Arc<WorkerCgroup>,
    system: System,
    /// Sandboxes without a network.
    plain: Arc<Stock>,
    /// Those with one, where the configuration has one.
    networked: Option<Arc<Stock>>,
}

/// What sandboxes have as root: an empty directory is made to build it on, and the runtimes' libraries are written.
fn root(config: &PoolConfig, system: &System) -> Result<Root, PoolError> {
    let state = |path: &PathBuf| {
        let path = path.clone();
        move |source| PoolError::State { path, source }
    };
    std::fs::create_dir_all(&config.state_dir).map_err(state(&config.state_dir))?;
    let state_dir = config
        .state_dir
        .canonicalize()
        .map_err(state(&config.state_dir))?;
    let (at, library) = (state_dir.join("root"), state_dir.join("python"));
    std::fs::create_dir_all(&at).map_err(state(&at))?;
    runtime::install(&library)?;
    Ok(Root {
        at,
        system: system.path.clone(),
        library,
    })
}

/// Everything that blocks: checks, the cgroup, the directories, the zygotes.
fn set_up(config: &PoolConfig, tasks: TaskTracker) -> Result<Grounds, PoolError> {
    crate::sandbox::check()?;
    // The init of a sandbox is started by a process that ends at once; it must become our child.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|source| {
        PoolError::State {
            path: PathBuf::from("/proc/self"),
            source: source.into(),
        }
    })?;
    let system = config.sandbox.rootfs.open(&config.sandbox.rootfs_dir)?;
    tracing::info!(rootfs = %system.name, path = %system.path.display(), "the system of sandboxes");
    let root = root(config, &system)?;
    let cgroup = Arc::new(WorkerCgroup::claim(
        &config.sandbox.cgroup_parent,
        &config.worker,
    )?);
    let timeout = Duration::from_millis(config.sandbox.prepare_timeout_ms);
    let uids = Uids::new(config.sandbox.uid_first, config.sandbox.uid_count);
    let founders = Arc::new(Founders::new(
        Executable(config.executable.clone()),
        timeout,
    ));
    // Those with a network have a zygote of their own: what it lets its instances do differs.
    let stock = |network: Option<Arc<Network>>, ready_len, first_number| {
        let sockets = match network {
            Some(_) => Sockets::Internet,
            None => Sockets::Local,
        };
        let zygote = Zygote::new(
            config.executable.clone(),
            root.clone(),
            config.sandbox.python.clone(),
            timeout,
            sockets,
        )?;
        let maker = SandboxMaker {
            founders: Arc::clone(&founders),
            root: root.clone(),
            cgroup: Arc::clone(&cgroup),
            uids: Arc::clone(&uids),
            network,
            timeout,
        };
        Ok::<_, PoolError>(Stock::new(
            maker,
            zygote,
            (ready_len, config.limits.node_prepared),
            first_number,
            tasks.clone(),
        ))
    };
    let plain = stock(None, config.limits.prepared, 0)?;
    let networked = match Network::start(&config.network, &config.worker)? {
        Some(network) => {
            let ready_len = config.network.prepared;
            let networked = stock(Some(network), ready_len, FIRST_NETWORKED)?;
            Some(networked)
        }
        None => None,
    };
    Ok(Grounds {
        cgroup,
        system,
        plain,
        networked,
    })
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
