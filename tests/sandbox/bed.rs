//! One pool with a store and a database beside it, and functions written in the test.

use std::{
    ops::Deref,
    path::PathBuf,
    sync::{Arc, Once},
    time::Duration,
};

use ebpf_common::wire::Status;
use serde_json::Value;
use store::CatalogEntry;
use tests::pool::PoolBed;
pub(crate) use tests::pool::{bundle, run_name};
use worker::pool::{Outcome, PoolConfig};

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

/// A pool and what it needs, where whatever fails is the test's end. To be stopped by [`Bed::stop`].
pub(crate) struct Bed(PoolBed);

impl Deref for Bed {
    type Target = PoolBed;

    fn deref(&self) -> &PoolBed {
        &self.0
    }
}

impl Bed {
    /// A pool with one prepared sandbox and the defaults otherwise.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A pool whose configuration `change` has had its way with.
    pub(crate) async fn start_with(change: impl FnOnce(&mut PoolConfig)) -> Self {
        log_when_asked();
        let bed = PoolBed::start(|config| {
            config.executable = PathBuf::from(env!("CARGO_BIN_EXE_sandbox-init"));
            config.limits.start_timeout_ms *= u64::from(slower());
            config.sandbox.prepare_timeout_ms *= u64::from(slower());
            change(config);
        });
        Self(bed.await.unwrap())
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
        let deployed = self.0.deploy_files(name, files, &slowed(extra)).await;
        deployed.unwrap()
    }

    /// Runs the function on `event`.
    pub(crate) async fn call(&self, function: &Arc<CatalogEntry>, event: Value) -> Outcome {
        self.0.call(function, &event).await
    }

    /// Runs the function, which has to succeed; its reply.
    pub(crate) async fn reply(&self, function: &Arc<CatalogEntry>, event: Value) -> Value {
        json(&self.call(function, event).await)
    }

    /// Stops everything.
    pub(crate) async fn stop(self) {
        self.0.stop().await;
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
