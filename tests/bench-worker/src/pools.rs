//! The pools that are measured, and the functions in them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use store::CatalogEntry;
use tests::pool::{PoolBed, reply};
use worker::pool::{Path, PoolConfig, PoolSnapshot};

/// What a handler imports before it can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Imports {
    /// Nothing.
    None,
    /// What a small web service imports of the standard library.
    Stdlib,
}

impl Imports {
    pub(crate) const ALL: [Self; 2] = [Self::None, Self::Stdlib];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Stdlib => "stdlib",
        }
    }

    /// The handler, the same for all who are compared.
    pub(crate) fn code(self) -> String {
        let imports = match self {
            Self::None => "",
            Self::Stdlib => {
                "import asyncio, email.message, http.client, http.server, logging, sqlite3, ssl, urllib.request\n\
                 import xml.etree.ElementTree\n"
            }
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
