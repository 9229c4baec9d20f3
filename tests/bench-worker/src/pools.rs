//! The pools that are measured, and the functions in them.

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use packages::{Options, Requires};
use serde_json::Value;
use store::{CatalogEntry, Digest};
use tests::{
    index::{Index, Mood, real_wheels},
    pool::{PoolBed, reply},
};
use worker::pool::{Path, PoolConfig, PoolSnapshot};

/// What a handler imports before it can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Imports {
    /// Nothing.
    None,
    /// What a small web service imports of the standard library.
    Stdlib,
    /// A large package, from a layer.
    Numpy,
}

impl Imports {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Stdlib, Self::Numpy];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Stdlib => "stdlib",
            Self::Numpy => "numpy",
        }
    }

    /// Memory that an instance may have, whoever runs it.
    pub(crate) const fn memory_mb(self) -> u32 {
        match self {
            Self::None | Self::Stdlib => 64,
            Self::Numpy => 256,
        }
    }

    /// The lines of a manifest, where `layer` holds numpy.
    pub(crate) fn manifest(self, layer: &Digest) -> String {
        let layers = match self {
            Self::None | Self::Stdlib => String::new(),
            Self::Numpy => format!("layers = [\"{layer}\"]"),
        };
        format!("memory_mb = {}\n{layers}", self.memory_mb())
    }

    /// The handler, the same for all who are compared.
    pub(crate) fn code(self) -> String {
        let imports = match self {
            Self::None => "",
            Self::Stdlib => {
                "import asyncio, email.message, http.client, http.server, logging, sqlite3, ssl, urllib.request\n\
                 import xml.etree.ElementTree\n"
            }
            Self::Numpy => "import numpy\n",
        };
        format!(
            "{imports}def f(event):\n    name = (event or {{}}).get('name', 'world')\n    \
             return {{'greeting': f'Hello, {{name}}!'}}\n"
        )
    }
}

/// What every request says.
pub(crate) fn event() -> Value {
    serde_json::json!({"name": "Ada"})
}

/// A layer with numpy in the store of `bed`, made as `warmpath fn deploy` makes it.
pub(crate) async fn numpy_layer(bed: &PoolBed) -> Result<Digest> {
    let executable = std::env::current_exe().context("finding this executable")?;
    // target/release/bench-worker: the wheels lie in target/wheels.
    let target = executable
        .ancestors()
        .nth(2)
        .context("this executable lies in no target directory")?;
    let listener = TcpListener::bind("127.0.0.1:0").context("binding an index")?;
    let index = Index::serve(listener, Mood::Honest, real_wheels(target)?)?;
    let options = Options {
        python: "/usr/bin/python3".into(),
        executable: executable.clone(),
        index_url: Some(index.url().to_owned()),
        index_hosts: Vec::new(),
        timeout: RESOLVE_TIMEOUT,
        upgrade: false,
    };
    let dir = bed.dir.path().join("requires");
    std::fs::create_dir_all(&dir).context("making a directory")?;
    std::fs::write(dir.join("requirements.txt"), "numpy\n").context("writing requirements")?;
    let made = packages::resolve(&dir, Requires::Python, &options, &bed.store)
        .await
        .context("resolving numpy")?;
    let [numpy] = made.as_slice() else {
        bail!("numpy is not one layer, but {}", made.len());
    };
    Ok(numpy.digest.clone())
}

/// Instances end after so long without a request, whatever the history of their function says.
pub(crate) fn end_after(config: &mut PoolConfig, ms: u64) {
    config.limits.idle_timeout_ms = ms;
    config.limits.keep_alive_max_ms = ms;
}

/// Instances stay, and run.
pub(crate) fn keep_warm(config: &mut PoolConfig) {
    end_after(config, 3_600_000);
    config.limits.pause_after_ms = 0;
}

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long pools may take to come to rest.
const REST_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// One request, which has to succeed: how long it took, in milliseconds, and where its instance came from.
pub(crate) async fn timed(
    bed: &PoolBed,
    function: &Arc<CatalogEntry>,
    event: &Value,
) -> Result<(f64, Option<Path>)> {
    let invocation = bed.invocation(function, event);
    let start = Instant::now();
    let outcome = bed.pool.invoke(invocation).await;
    let took = ms(start.elapsed());
    reply(&outcome)?;
    Ok((took, outcome.usage.path))
}

/// Waits until no instance is left, nor anything of one, and as many sandboxes are prepared as shall be.
pub(crate) async fn until_at_rest(bed: &PoolBed) -> Result<()> {
    let wanted = bed.config.limits.prepared;
    until(bed, "at rest", |now| {
        let live = now.idle + now.paused + now.busy + now.starting;
        live == 0 && now.memory_mb == 0 && now.prepared >= wanted
    })
    .await
}

/// Waits until an instance is paused.
pub(crate) async fn until_paused(bed: &PoolBed) -> Result<()> {
    until(bed, "paused", |now| now.paused > 0).await
}

async fn until(bed: &PoolBed, what: &str, is_so: impl Fn(&PoolSnapshot) -> bool) -> Result<()> {
    let reached = async {
        while !is_so(&bed.pool.snapshot()) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    tokio::time::timeout(REST_TIMEOUT, reached)
        .await
        .with_context(|| format!("the pool is never {what}: {:?}", bed.pool.snapshot()))
}

/// A duration in milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
