//! A cold start: a prepared sandbox gets a function.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ebpf_common::wire::Status;
use store::Manifest;
use tokio::time::Instant;

use super::{
    Pool,
    budget::Share,
    chain,
    connection::Connection,
    function::{FunctionPool, Refusal},
    instance::{Body, Instance, Parts, watch},
    invocation::Path,
    packages::Started,
    stock::Prepared,
};
use crate::{
    log::{Hidden, Output, Source},
    runtime::{
        self, Exec,
        protocol::{LoadMeta, LoadedMeta},
    },
    sandbox::{Assignment, CgroupLimits},
    secrets::Environment,
};

/// A function with less memory is not put into a process that was executed ahead, which may take more than that.
const AHEAD_MEMORY_MB_MIN: u32 = 64;

/// What a function is loaded into.
struct Vessel {
    prepared: Prepared,
    origin: Path,
    /// The package zygote that forked it.
    zygote: Option<u64>,
    /// What it has yet to become.
    exec: Option<Exec>,
}

/// Whether instances may come from a zygote with packages, or a program that runs already: these have no network,
/// and have started without the variables and secrets that a function sets for them.
fn suits_zygotes(manifest: &Manifest) -> bool {
    manifest.network.is_empty() && manifest.env.is_empty() && manifest.secrets.is_empty()
}

/// One instance of `function`, ready for its first request.
pub(super) async fn instance(
    pool: &Arc<Pool>,
    function: &Arc<FunctionPool>,
    share: Share,
) -> Result<Instance, Refusal> {
    let begun = Instant::now();
    let entry = &function.entry;
    // The code first: a sandbox is not held while it is fetched, nor lost when that fails.
    let code = pool.code.ensure(entry).await;
    let code = code.map_err(|error| refuse(Status::CodeUnavailable, &error))?;
    let environment = environment(pool, function).await?;
    let Vessel {
        prepared,
        origin,
        zygote,
        exec,
    } = vessel(pool, function).await?;
    let manifest = &entry.manifest;
    let limits = CgroupLimits {
        memory_bytes: u64::from(manifest.memory_mb) << 20,
        pids: manifest.pids + own_threads(manifest.concurrency),
        cpu_percent: manifest.cpu_percent,
    };
    let (tmp_mb, egress) = (manifest.tmp_mb, manifest.network.clone());
    let places = code.layers.clone();
    let layers: Vec<String> = code.layers.iter().map(|layer| layer.name.clone()).collect();
    let assigned = tokio::task::spawn_blocking(move || {
        let layers: Vec<_> = code
            .layers
            .iter()
            .map(|layer| (layer.name.as_str(), layer.place.as_path()))
            .collect();
        let assignment = Assignment {
            code: &code.bundle,
            layers: &layers,
            limits,
            tmp_mb,
            egress: &egress,
        };
        prepared.sandbox.assign(&assignment).map(|()| prepared)
    });
    let prepared = assigned
        .await
        .map_err(|error| refuse(Status::SandboxUnavailable, &error))?
        .map_err(|error| refuse(Status::SandboxUnavailable, &error))?;
    let wrapped = wrap(
        pool,
        function,
        (share, origin),
        prepared,
        begun,
        environment,
    );
    let (mut body, mut connection) =
        wrapped.map_err(|error| refuse(Status::SandboxUnavailable, &error))?;
    let loaded = load(pool, function, (exec, &layers), &body, &mut connection).await?;
    body.environment.forget();
    if suits_zygotes(manifest) {
        let started = Started {
            function: &entry.digest,
            tenant: &manifest.tenant,
            layers: &layers,
            imports: &loaded.imports,
            from: zygote,
        };
        pool.zygotes.started(&started, &places);
    }
    let used_at = pool.functions.clock().now();
    Ok(Instance::new(body, connection, used_at))
}

/// The process that has most of what `function` needs.
async fn vessel(pool: &Arc<Pool>, function: &Arc<FunctionPool>) -> Result<Vessel, Refusal> {
    let manifest = &function.entry.manifest;
    let stock = match &pool.networked {
        _ if manifest.network.is_empty() => &pool.stock,
        Some(networked) => networked,
        None => return Err(no_network()),
    };
    let runtime = runtime::of(manifest.runtime);
    let exec = runtime.exec(manifest);
    let is_ahead = runtime.is_executed_ahead() && manifest.memory_mb >= AHEAD_MEMORY_MB_MIN;
    if suits_zygotes(manifest) {
        if let Some(exec) = exec.as_ref().filter(|_| is_ahead)
            && let Some(prepared) = stock.take_executed(exec)
        {
            return Ok(Vessel {
                prepared,
                origin: Path::Zygote,
                zygote: None,
                exec: None,
            });
        }
        if let Some((prepared, zygote)) = pool.zygotes.prepare(&function.entry.digest).await {
            return Ok(Vessel {
                prepared,
                origin: Path::Zygote,
                zygote: Some(zygote),
                exec,
            });
        }
    }
    let origin = if stock.len() > 0 {
        Path::Zygote
    } else {
        Path::Cold
    };
    let prepared = stock.take().await;
    Ok(Vessel {
        prepared: prepared.map_err(|error| refuse(Status::SandboxUnavailable, &error))?,
        origin,
        zygote: None,
        exec,
    })
}

/// What runs in a sandbox beside what the handler starts: the init, and, where several requests are served
/// at a time, a thread for each and one for the event loop.
const fn own_threads(concurrency: u32) -> u32 {
    if concurrency > 1 { concurrency + 2 } else { 1 }
}

/// What the manifest wants in the environment. Without a secret there is no instance: the function asks for what its
/// worker has not got, and that is no different from code that cannot be loaded.
async fn environment(
    pool: &Arc<Pool>,
    function: &Arc<FunctionPool>,
) -> Result<Environment, Refusal> {
    let (pool_here, function) = (Arc::clone(pool), Arc::clone(function));
    let read = tokio::task::spawn_blocking(move || {
        Environment::read(&pool_here.config.secrets, &function.entry.manifest)
    });
    let environment = read
        .await
        .map_err(|error| refuse(Status::SandboxUnavailable, &error))?;
    environment.map_err(|error| {
        pool.counters
            .secret_failures
            .fetch_add(1, Ordering::Relaxed);
        refuse(Status::Exception, &error)
    })
}

fn no_network() -> Refusal {
    Refusal {
        status: Status::SandboxUnavailable,
        message: "the function asks for a network, and this worker has none to give: its operator has to set \
                  `[network] uplink`"
            .to_owned(),
    }
}

fn refuse(status: Status, error: &dyn std::error::Error) -> Refusal {
    Refusal {
        status,
        message: chain(error),
    }
}

/// From here on, whatever fails, the sandbox is ended by dropping the body.
fn wrap(
    pool: &Arc<Pool>,
    function: &Arc<FunctionPool>,
    (share, origin): (Share, Path),
    prepared: Prepared,
    begun: Instant,
    environment: Environment,
) -> std::io::Result<(Body, Connection)> {
    let sandbox = Arc::new(prepared.sandbox);
    pool.running().push(Arc::downgrade(&sandbox));
    let connection = Connection::new(prepared.stream)?;
    let source = Source {
        function: function.entry.name.clone(),
        version: function.entry.version,
        instance: sandbox.id(),
        hidden: Hidden::new(environment.secrets_of(&function.entry.manifest)),
    };
    let (logs, total) = (Arc::clone(&pool.logs), Arc::clone(&pool.counters.log_bytes));
    let output = Arc::new(Output::new(source, prepared.outputs, logs, total)?);
    let watched = watch(
        Arc::clone(&output),
        Arc::downgrade(&sandbox),
        Arc::downgrade(function),
    );
    pool.tasks.spawn(watched);
    let body = Body::new(Parts {
        sandbox,
        begun,
        output,
        environment,
        share,
        origin,
        function: Arc::clone(function),
        undertaker: pool.undertaker.clone(),
    });
    Ok((body, connection))
}

async fn load(
    pool: &Pool,
    function: &FunctionPool,
    (exec, layers): (Option<Exec>, &[String]),
    body: &Body,
    connection: &mut Connection,
) -> Result<LoadedMeta, Refusal> {
    let entry = &function.entry;
    let meta = LoadMeta {
        entry: &entry.manifest.entry,
        payload: entry.manifest.payload,
        env: &body.environment,
        layers,
        interface: entry.manifest.interface,
        app: &entry.manifest.app,
        exec,
        function: &entry.qualified,
        worker: &pool.config.worker,
        instance: body.number(),
        concurrency: entry.manifest.concurrency,
    };
    let timeout = Duration::from_millis(pool.config.limits.start_timeout_ms);
    let loaded = tokio::time::timeout(timeout, connection.load(&meta)).await;
    let (status, message) = match loaded {
        Ok(Ok(Ok(loaded))) => return Ok(loaded),
        Ok(Ok(Err(error))) => (
            Status::Exception,
            format!(
                "cannot load the function: {}: {}",
                error.kind, error.message
            ),
        ),
        Ok(Err(_)) if body.is_out_of_memory() => (
            Status::OutOfMemory,
            format!(
                "loading the function takes more than {} MB",
                entry.manifest.memory_mb
            ),
        ),
        Ok(Err(broken)) => (Status::Crashed, format!("loading the function: {broken}")),
        Err(_) => (
            Status::Timeout,
            format!("loading the function takes longer than {timeout:?}"),
        ),
    };
    tracing::debug!(
        function = entry.qualified,
        output = body.output().tail(),
        "not loaded"
    );
    Err(Refusal { status, message })
}
