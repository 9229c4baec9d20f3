//! A cold start: a prepared sandbox gets a function.

use std::{sync::Arc, time::Duration};

use ebpf_common::wire::Status;

use super::{
    Pool,
    budget::Share,
    chain,
    connection::Connection,
    function::{FunctionPool, Refusal},
    instance::{Instance, Parts, watch},
    log::Tail,
    stock::Prepared,
};
use crate::{
    runtime::{self, protocol::LoadMeta},
    sandbox::{Assignment, CgroupLimits},
};

/// One instance of `function`, ready for its first request.
pub(super) async fn instance(
    pool: &Arc<Pool>,
    function: &Arc<FunctionPool>,
    share: Share,
) -> Result<Instance, Refusal> {
    let entry = &function.entry;
    // The code first: a sandbox is not held while it is fetched, nor lost when that fails.
    let code = pool.code.ensure(entry).await;
    let code = code.map_err(|error| refuse(Status::CodeUnavailable, &error))?;
    let prepared = pool.stock.take().await;
    let prepared = prepared.map_err(|error| refuse(Status::SandboxUnavailable, &error))?;
    let manifest = &entry.manifest;
    let limits = CgroupLimits {
        memory_bytes: u64::from(manifest.memory_mb) << 20,
        // The init of the sandbox is one more.
        pids: manifest.pids + 1,
        cpu_percent: manifest.cpu_percent,
    };
    let tmp_mb = manifest.tmp_mb;
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
        };
        prepared.sandbox.assign(&assignment).map(|()| prepared)
    });
    let prepared = assigned
        .await
        .map_err(|error| refuse(Status::SandboxUnavailable, &error))?
        .map_err(|error| refuse(Status::SandboxUnavailable, &error))?;
    let mut instance = wrap(pool, function, share, prepared)
        .map_err(|error| refuse(Status::SandboxUnavailable, &error))?;
    load(pool, function, &layers, &mut instance).await?;
    // What loading cost is not the first request's.
    instance.cpu_us();
    Ok(instance)
}

fn refuse(status: Status, error: &dyn std::error::Error) -> Refusal {
    Refusal {
        status,
        message: chain(error),
    }
}

/// From here on, whatever fails, the instance is ended by being dropped.
fn wrap(
    pool: &Arc<Pool>,
    function: &Arc<FunctionPool>,
    share: Share,
    prepared: Prepared,
) -> std::io::Result<Instance> {
    let tail = Tail::default();
    let sandbox = Arc::new(prepared.sandbox);
    pool.running().push(Arc::downgrade(&sandbox));
    let connection = Connection::new(prepared.stream)?;
    let watched = watch(
        prepared.log,
        tail.clone(),
        Arc::downgrade(&sandbox),
        Arc::downgrade(function),
        Arc::clone(&pool.counters),
    );
    pool.tasks.spawn(watched);
    Ok(Instance::new(Parts {
        connection,
        sandbox,
        pid: prepared.pid,
        tail,
        share,
        function: Arc::clone(function),
        undertaker: pool.undertaker.clone(),
    }))
}

async fn load(
    pool: &Pool,
    function: &FunctionPool,
    layers: &[String],
    instance: &mut Instance,
) -> Result<(), Refusal> {
    let entry = &function.entry;
    let meta = LoadMeta {
        entry: &entry.manifest.entry,
        payload: entry.manifest.payload,
        layers,
        interface: entry.manifest.interface,
        app: &entry.manifest.app,
        exec: runtime::of(entry.manifest.runtime).exec(&entry.manifest),
        function: &entry.qualified,
        worker: &pool.config.worker,
        instance: super::roster::Numbered::number(instance),
    };
    let timeout = Duration::from_millis(pool.config.limits.start_timeout_ms);
    let loaded = tokio::time::timeout(timeout, instance.connection.load(&meta)).await;
    let (status, message) = match loaded {
        Ok(Ok(Ok(()))) => return Ok(()),
        Ok(Ok(Err(error))) => (
            Status::Exception,
            format!(
                "cannot load the function: {}: {}",
                error.kind, error.message
            ),
        ),
        Ok(Err(_)) if instance.is_out_of_memory() => (
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
        output = instance.tail.text(),
        "not loaded"
    );
    Err(Refusal { status, message })
}
