//! From a request to its first reply, by the way an instance comes: started cold, forked by a zygote into a sandbox made
//! now or ahead, warm; and in a container.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use store::CatalogEntry;
use testbed::proc;
use tests::pool::{PoolBed, run_name};
use worker::{
    code::{CodeCache, Layer},
    pool::{Path, PoolConfig},
};

use crate::{
    Scope,
    oci::{Containers, Runtime},
    pools::{
        Imports, end_after, event, keep_warm, numpy_layer, timed, until_at_rest, until_paused,
    },
    row::Row,
    say,
};

const ROUNDS: usize = 40;
/// Rounds that nobody counts: code and pages get cached.
const WARM_UP: usize = 2;
/// Instances of the pools that shall start anew each time end after so long without a request.
const SHORT_MS: u64 = 20;
/// And are paused after so long, where that is measured.
const PAUSE_MS: u64 = 4;

/// By which way an instance comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Python is started, a sandbox made, an instance forked: nothing was there.
    Cold,
    /// The zygote runs; the sandbox is made now.
    Unprepared,
    /// The zygote runs, and a sandbox waits.
    Zygote,
    /// The instance waits, paused.
    Thaw,
    /// The instance waits.
    Warm,
    Container(Runtime),
}

/// What is compared in one row.
struct Contender {
    case: String,
    way: Way,
    imports: Imports,
    values: Vec<f64>,
    removals: Vec<f64>,
}

fn contenders(scope: &Scope) -> Vec<Contender> {
    let mut all = Vec::new();
    let mut add = |name: &str, way: Way, imports: Imports| {
        let case = format!("first_reply/{name}/{}", imports.name());
        if scope.has(&case) {
            all.push(Contender {
                case,
                way,
                imports,
                values: Vec::new(),
                removals: Vec::new(),
            });
        }
    };
    add("warm", Way::Warm, Imports::None);
    add("thaw", Way::Thaw, Imports::None);
    for imports in Imports::ALL {
        add("zygote", Way::Zygote, imports);
        add("unprepared", Way::Unprepared, imports);
        add("cold", Way::Cold, imports);
        for runtime in Runtime::ALL {
            add(runtime.name(), Way::Container(runtime), imports);
        }
    }
    all
}

/// Measures all that were asked for.
pub(crate) async fn rows(scope: &Scope) -> Result<Vec<Row>> {
    let mut contenders = contenders(scope);
    if contenders.is_empty() {
        return Ok(Vec::new());
    }
    let rounds = scope.rounds(ROUNDS);
    let mut place = Place::start(scope, WARM_UP + rounds).await?;
    say(&format!(
        "first replies: {} cases, {rounds} rounds",
        contenders.len()
    ));
    for round in 0..WARM_UP + rounds {
        for contender in &mut contenders {
            let measured = place.once(contender.way, contender.imports).await;
            let (value, removal) =
                measured.with_context(|| format!("measuring {}", contender.case))?;
            if round >= WARM_UP {
                contender.values.push(value);
                contender.removals.extend(removal);
            }
        }
    }
    place.stop().await;
    let mut rows = Vec::new();
    for contender in &mut contenders {
        rows.extend(Row::of(
            contender.case.clone(),
            "ms",
            std::mem::take(&mut contender.values),
        ));
    }
    for contender in contenders {
        let case = contender.case.replace("first_reply", "removal");
        rows.extend(Row::of(case, "ms", contender.removals));
    }
    Ok(rows)
}

/// A pool, and the functions that are still to be called, each once: a worker that knows when a function is called starts
/// an instance ahead, or keeps one.
struct Group {
    bed: PoolBed,
    functions: Vec<(Imports, Arc<CatalogEntry>)>,
}

impl Group {
    async fn start(count: usize, change: impl FnOnce(&mut PoolConfig)) -> Result<Self> {
        let bed = PoolBed::start(change).await?;
        let numpy = numpy_layer(&bed).await?;
        let mut functions = Vec::new();
        for number in 0..count {
            for imports in Imports::ALL {
                let name = format!("{}{number}", imports.name());
                let code = imports.code();
                let function = bed.deploy(&name, &code, &imports.manifest(&numpy)).await?;
                // Fetches the code: what is measured begins with it on this host.
                timed(&bed, &function, &event()).await?;
                functions.push((imports, function));
            }
        }
        Ok(Self { bed, functions })
    }

    /// The layer with numpy on this host.
    async fn numpy(&self) -> Result<Layer> {
        let of_numpy = self
            .functions
            .iter()
            .find(|(kind, _)| *kind == Imports::Numpy);
        let (_, function) = of_numpy.context("no function of numpy")?;
        let cache = CodeCache::new(self.bed.store.clone(), self.bed.dir.path().join("code"));
        let mut code = cache
            .ensure(function)
            .await
            .context("looking for a layer")?;
        code.layers.pop().context("a function without a layer")
    }

    /// One request of a function that is not called again, for which an instance is started. Which zygote forks it, and
    /// into which sandbox, is the worker's choice: its tree grows with what functions import.
    async fn once(&mut self, imports: Imports) -> Result<f64> {
        let at = self.functions.iter().position(|(kind, _)| *kind == imports);
        let (_, function) = self
            .functions
            .remove(at.context("all functions were called")?);
        let (took, came) = timed(&self.bed, &function, &event()).await?;
        let is_new = matches!(came, Some(Path::Zygote | Path::Cold));
        ensure!(is_new, "the instance came by {came:?}");
        Ok(took)
    }
}

/// One function that is called again and again.
struct Kept {
    bed: PoolBed,
    function: Arc<CatalogEntry>,
}

impl Kept {
    async fn start(change: impl FnOnce(&mut PoolConfig)) -> Result<Self> {
        let bed = PoolBed::start(change).await?;
        let code = Imports::None.code();
        let function = bed.deploy("kept", &code, "memory_mb = 64").await?;
        timed(&bed, &function, &event()).await?;
        Ok(Self { bed, function })
    }

    async fn once(&self, path: Path) -> Result<f64> {
        let (took, came) = timed(&self.bed, &self.function, &event()).await?;
        ensure!(came == Some(path), "the instance came by {came:?}");
        Ok(took)
    }
}

/// Where all of them run.
struct Place {
    prepared: Group,
    unprepared: Group,
    warm: Kept,
    paused: Kept,
    containers: Containers,
}

impl Place {
    async fn start(scope: &Scope, rounds: usize) -> Result<Self> {
        let prepared = Group::start(rounds, |config| {
            scope.fit(config);
            end_after(config, SHORT_MS);
            config.limits.prepared = 2;
        })
        .await?;
        // A cold start takes one function, one without a prepared sandbox two.
        let unprepared = Group::start(3 * rounds, |config| {
            scope.fit(config);
            end_after(config, SHORT_MS);
            config.limits.prepared = 0;
        })
        .await?;
        let warm = Kept::start(|config| {
            scope.fit(config);
            keep_warm(config);
        })
        .await?;
        let paused = Kept::start(|config| {
            scope.fit(config);
            keep_warm(config);
            config.limits.pause_after_ms = PAUSE_MS;
        })
        .await?;
        let library = library(&prepared.bed);
        let dir = prepared.bed.dir.path().join("oci");
        let layer = prepared.numpy().await?;
        let containers = Containers::prepare(dir, &library, &layer, &run_name())?;
        Ok(Self {
            prepared,
            unprepared,
            warm,
            paused,
            containers,
        })
    }

    /// One measurement in milliseconds, and what the removal took, where that is told.
    async fn once(&mut self, way: Way, imports: Imports) -> Result<(f64, Option<f64>)> {
        // Nothing that an earlier one started may still be at work.
        until_at_rest(&self.prepared.bed).await?;
        until_at_rest(&self.unprepared.bed).await?;
        until_paused(&self.paused.bed).await?;
        let value = match way {
            Way::Warm => self.warm.once(Path::Warm).await?,
            Way::Thaw => self.paused.once(Path::Paused).await?,
            Way::Zygote => self.prepared.once(imports).await?,
            Way::Unprepared => {
                // Its zygote may have been killed for a cold start; this brings it back.
                self.unprepared.once(imports).await?;
                until_at_rest(&self.unprepared.bed).await?;
                self.unprepared.once(imports).await?
            }
            Way::Cold => {
                kill_zygotes(&library(&self.unprepared.bed))?;
                self.unprepared.once(imports).await?
            }
            Way::Container(runtime) => {
                let (took, removal) =
                    tokio::task::block_in_place(|| self.containers.once(runtime, imports))?;
                return Ok((took, Some(removal)));
            }
        };
        Ok((value, None))
    }

    async fn stop(self) {
        self.prepared.bed.stop().await;
        self.unprepared.bed.stop().await;
        self.warm.bed.stop().await;
        self.paused.bed.stop().await;
    }
}

/// The host directory of a pool's Python library.
fn library(bed: &PoolBed) -> PathBuf {
    bed.dir.path().join("state/python")
}

/// Kills the zygotes of the pool with that library.
fn kill_zygotes(library: &std::path::Path) -> Result<()> {
    let zygotes = proc::python_children(std::process::id(), &library.to_string_lossy());
    ensure!(!zygotes.is_empty(), "no zygote runs");
    for pid in zygotes {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).context("killing a zygote")?;
    }
    Ok(())
}
