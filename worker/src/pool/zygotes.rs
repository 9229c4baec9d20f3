//! The package zygotes of a pool: forked from by cold starts, grown and ended as the policy says.
//!
//! Growing takes as long as the imports do, so it happens in the background, one at a time; a cold start that
//! finds no zygote takes the first one, as if there were no others.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use store::Digest;
use tokio_util::task::TaskTracker;

use super::{
    config::PoolLimits,
    packages::{PackageSet, Plan, Policy, Started},
    shelf::Shelf,
    stock::{Prepared, Stock},
};
use crate::{
    code::Layer,
    runtime::package_zygote::{GrowError, PackageZygote, Parent},
    sandbox::{Assignment, CgroupLimits},
};

/// Importing may take so long.
const GROW_TIMEOUT: Duration = Duration::from_secs(30);
/// A zygote that has forked so many is ended: what its packages keep of each, descriptors for one, adds up.
const FORKS_MAX: u64 = 1_000;
/// Processes of a package zygote's sandbox: itself, its init, and what it forks until that has moved on.
const PIDS_MAX: u32 = 64;
/// `/tmp` of a package zygote.
const TMP_MB: u32 = 1;

/// A package zygote, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteStatus {
    /// Its number, never used again by this worker.
    pub id: u64,
    /// The zygote that it was forked from; absent for the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// Whose functions it serves.
    pub tenant: String,
    /// What it has imported.
    pub imports: Vec<String>,
    /// The layers that are mounted in it.
    pub layers: Vec<String>,
    /// Its memory, shared pages by share.
    pub memory_mb: u64,
    /// Instances forked from it.
    pub forks: u64,
    /// Those of them that wait for a function.
    pub ready: usize,
    /// Import time that it has saved lately, in milliseconds.
    pub saved_ms: u64,
}

/// What happened to package zygotes so far.
#[derive(Debug, Default)]
pub(super) struct ZygoteCounters {
    pub(super) grown: AtomicU64,
    pub(super) ended: AtomicU64,
    pub(super) unfit: AtomicU64,
    pub(super) forks: AtomicU64,
}

#[derive(Debug)]
struct Running {
    zygote: Arc<PackageZygote>,
    /// Instances that it has forked ahead of need.
    shelf: Arc<Shelf<Prepared>>,
    set: PackageSet,
    parent: Option<u64>,
    memory_mb: u64,
}

fn names(set: &PackageSet) -> impl Iterator<Item = &str> {
    set.imports.iter().map(|import| import.module.as_str())
}

/// All package zygotes of a pool.
#[derive(Debug)]
pub(super) struct Zygotes {
    policy: Mutex<Policy>,
    running: Mutex<HashMap<u64, Running>>,
    /// Where the layers of functions lie that were started.
    places: Mutex<HashMap<String, PathBuf>>,
    budget_mb: u64,
    /// Instances that each keeps ready.
    prepared: usize,
    growing: AtomicBool,
    stopping: AtomicBool,
    began: Instant,
    stock: Arc<Stock>,
    tasks: TaskTracker,
    pub(super) counters: ZygoteCounters,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Zygotes {
    /// Package zygotes that take `zygote_memory_mb` at most, 0 for none at all, and keep `zygote_prepared` instances
    /// each.
    pub(super) fn new(limits: &PoolLimits, stock: Arc<Stock>, tasks: TaskTracker) -> Arc<Self> {
        let budget_mb = u64::from(limits.zygote_memory_mb);
        Arc::new(Self {
            policy: Mutex::new(Policy::new(budget_mb)),
            running: Mutex::default(),
            places: Mutex::default(),
            budget_mb,
            prepared: limits.zygote_prepared,
            growing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            began: Instant::now(),
            stock,
            tasks,
            counters: ZygoteCounters::default(),
        })
    }

    /// A sandbox with a process that has imported what `function` imports, as far as a zygote has it; and
    /// that zygote. `None`: the first zygote has as much.
    pub(super) async fn prepare(self: &Arc<Self>, function: &Digest) -> Option<(Prepared, u64)> {
        let id = lock(&self.policy).best(function)?;
        let (zygote, shelf) = {
            let running = lock(&self.running);
            let one = running.get(&id)?;
            (Arc::clone(&one.zygote), Arc::clone(&one.shelf))
        };
        let is_spent = zygote.forks() + 1 >= FORKS_MAX;
        match self.stock.take_from(&zygote, &shelf).await {
            Ok(prepared) => {
                self.counters.forks.fetch_add(1, Ordering::Relaxed);
                if is_spent {
                    self.condemn(id);
                }
                Some((prepared, id))
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error,
                    zygote = id,
                    "a package zygote does not fork and is ended"
                );
                self.condemn(id);
                None
            }
        }
    }

    /// Takes note of a cold start, and grows what it shows to be missing.
    pub(super) fn started(self: &Arc<Self>, started: &Started<'_>, layers: &[Layer]) {
        if self.budget_mb == 0 || started.imports.is_empty() {
            return;
        }
        lock(&self.places).extend(
            layers
                .iter()
                .map(|layer| (layer.name.clone(), layer.place.clone())),
        );
        lock(&self.policy).started(started, self.now_s());
        self.grow();
    }

    /// Has each fork what is missing of those that it keeps ready. One that has ended goes.
    pub(super) fn tend(self: &Arc<Self>) {
        let mut ended = Vec::new();
        for (id, one) in lock(&self.running).iter() {
            if one.zygote.is_alive() {
                self.stock.tend_from(&one.zygote, &one.shelf);
            } else {
                ended.push(*id);
            }
        }
        for id in ended {
            tracing::warn!(zygote = id, "a package zygote has ended");
            self.condemn(id);
        }
    }

    /// All of them, by number.
    pub(super) fn list(&self) -> Vec<ZygoteStatus> {
        let (running, policy) = (lock(&self.running), lock(&self.policy));
        let mut all: Vec<ZygoteStatus> = running
            .iter()
            .map(|(id, one)| ZygoteStatus {
                id: *id,
                parent: one.parent,
                tenant: one.set.tenant.clone(),
                imports: names(&one.set).map(str::to_owned).collect(),
                layers: one.set.layers.clone(),
                memory_mb: one.memory_mb,
                forks: one.zygote.forks(),
                ready: one.shelf.len(),
                saved_ms: policy.saved_ms(*id, self.now_s()),
            })
            .collect();
        all.sort_by_key(|zygote| zygote.id);
        all
    }

    /// Ends all of them, for good. Blocks.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let all = std::mem::take(&mut *lock(&self.running));
        for one in all.values() {
            drop(one.shelf.close());
        }
    }

    fn now_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Grows what the policy wants grown, in the background, until it wants no more.
    fn grow(self: &Arc<Self>) {
        let is_idle = lock(&self.policy).next(self.now_s()).is_none();
        if is_idle || self.growing.swap(true, Ordering::AcqRel) {
            return;
        }
        let zygotes = Arc::clone(self);
        self.tasks.spawn(async move {
            while !zygotes.stopping.load(Ordering::Acquire) {
                let Some(plan) = lock(&zygotes.policy).next(zygotes.now_s()) else {
                    break;
                };
                zygotes.carry_out(plan).await;
            }
            zygotes.growing.store(false, Ordering::Release);
        });
    }

    async fn carry_out(self: &Arc<Self>, plan: Plan) {
        for id in &plan.evict {
            self.condemn(*id);
        }
        let sandbox = match self.stock.take_bare().await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "no sandbox for a package zygote");
                lock(&self.policy).is_unfit(plan.set);
                return;
            }
        };
        let (zygotes, set) = (Arc::clone(self), plan.set.clone());
        let grown =
            tokio::task::spawn_blocking(move || zygotes.grow_in(sandbox, &set, plan.parent));
        match grown.await {
            Ok(Ok(zygote)) => self.install(zygote, plan.set, plan.parent),
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, imports = ?plan.set.imports, "no package zygote");
                self.counters.unfit.fetch_add(1, Ordering::Relaxed);
                lock(&self.policy).is_unfit(plan.set);
            }
            Err(error) => {
                tracing::warn!(%error, "a package zygote was not grown");
                lock(&self.policy).is_unfit(plan.set);
            }
        }
    }

    /// Blocks for as long as the imports take.
    fn grow_in(
        &self,
        sandbox: crate::sandbox::Sandbox,
        set: &PackageSet,
        parent: Option<u64>,
    ) -> Result<PackageZygote, GrowError> {
        let places = lock(&self.places).clone();
        let layers: Vec<_> = set
            .layers
            .iter()
            .filter_map(|name| Some((name.as_str(), places.get(name)?.as_path())))
            .collect();
        let assignment = Assignment {
            // Nothing of a function: an empty directory.
            code: self.stock.empty_dir(),
            layers: &layers,
            limits: CgroupLimits {
                memory_bytes: self.budget_mb << 20,
                pids: PIDS_MAX,
                cpu_percent: 100,
            },
            tmp_mb: TMP_MB,
            egress: &[],
        };
        sandbox.assign(&assignment)?;
        let parent = parent.and_then(|id| {
            let running = lock(&self.running);
            running.get(&id).map(|parent| Arc::clone(&parent.zygote))
        });
        let from = match &parent {
            Some(zygote) => Parent::Package(zygote),
            None => Parent::First(self.stock.zygote()),
        };
        let imports: Vec<&str> = names(set).collect();
        PackageZygote::grow(from, sandbox, &set.layers, &imports, GROW_TIMEOUT)
    }

    fn install(self: &Arc<Self>, zygote: PackageZygote, set: PackageSet, parent: Option<u64>) {
        let (id, memory_mb) = (zygote.id(), zygote.memory_mb());
        tracing::info!(zygote = id, imports = ?set.imports, memory_mb, "package zygote grown");
        self.counters.grown.fetch_add(1, Ordering::Relaxed);
        let (zygote, shelf) = (Arc::new(zygote), Arc::new(Shelf::new(self.prepared)));
        self.stock.fill_from(&zygote, &shelf);
        let running = Running {
            zygote,
            shelf,
            set: set.clone(),
            parent,
            memory_mb,
        };
        lock(&self.running).insert(id, running);
        let gone = lock(&self.policy).grown(id, set, memory_mb, self.now_s());
        for id in gone {
            self.condemn(id);
        }
        if self.stopping.load(Ordering::Acquire) {
            self.condemn(id);
        }
    }

    /// Ends a zygote, once nobody forks from it any more.
    fn condemn(&self, id: u64) {
        lock(&self.policy).ended(id);
        let Some(one) = lock(&self.running).remove(&id) else {
            return;
        };
        self.counters.ended.fetch_add(1, Ordering::Relaxed);
        // Ending it blocks, and so does ending what it has forked.
        self.tasks
            .spawn_blocking(move || drop((one.shelf.close(), one.zygote)));
    }
}
