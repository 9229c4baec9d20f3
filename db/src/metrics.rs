//! The database's counters: ops by kind, locality and outcome; commits, syncs and their latency.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
};

use crate::{
    error::DbError,
    op::{Locality, OpKind, Reply},
};

/// Upper bounds, in seconds, of the sync latency's buckets.
const SYNC_BUCKETS: [f64; 12] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0,
];

/// Every counter of the database. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct Metrics {
    ops: IntCounterVec,
    served: IntCounterVec,
    /// Feed records committed.
    pub(crate) commits: IntCounter,
    /// Durable batches written.
    pub(crate) syncs: IntCounter,
    sync_seconds: Histogram,
    /// Writes that wait for their commit.
    pub(crate) waiting: IntGauge,
    /// 1 after a failed commit.
    pub(crate) poisoned: IntGauge,
    /// The largest cursor committed in any slot.
    pub(crate) feed_head_max: IntGauge,
}

impl Metrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// When `registry` already has counters of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            ops: IntCounterVec::new(
                Opts::new(
                    "db_ops_total",
                    "Ops by kind, by where they ran, and by outcome.",
                ),
                &["kind", "locality", "outcome"],
            )?,
            served: IntCounterVec::new(
                Opts::new(
                    "db_served_total",
                    "Ops served here for other processes, by kind and outcome.",
                ),
                &["kind", "outcome"],
            )?,
            commits: IntCounter::new(
                "db_commits_total",
                "Writes committed with their feed record.",
            )?,
            syncs: IntCounter::new(
                "db_syncs_total",
                "Durable batches; several commits share one.",
            )?,
            sync_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "db_sync_seconds",
                    "Time of one durable batch, sync included.",
                )
                .buckets(SYNC_BUCKETS.to_vec()),
            )?,
            waiting: IntGauge::new("db_writes_waiting", "Writes that wait for their commit.")?,
            poisoned: IntGauge::new(
                "db_poisoned",
                "1 after a failed commit: no writes until restart.",
            )?,
            feed_head_max: IntGauge::new(
                "db_feed_head_max",
                "The largest feed cursor committed in any slot since the start.",
            )?,
        };
        let collectors: [Box<dyn Collector>; 8] = [
            Box::new(metrics.ops.clone()),
            Box::new(metrics.served.clone()),
            Box::new(metrics.commits.clone()),
            Box::new(metrics.syncs.clone()),
            Box::new(metrics.sync_seconds.clone()),
            Box::new(metrics.waiting.clone()),
            Box::new(metrics.poisoned.clone()),
            Box::new(metrics.feed_head_max.clone()),
        ];
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Counters that nothing exports, for tests and tools.
    #[must_use]
    pub fn unregistered() -> Self {
        Self::register(&Registry::new()).expect("a fresh registry holds no names yet")
    }

    /// Counts one op that this process asked for.
    pub fn count(&self, kind: OpKind, locality: Locality, outcome: Result<&Reply, &DbError>) {
        self.ops
            .with_label_values(&[kind.name(), locality.name(), label(outcome)])
            .inc();
    }

    /// Counts one op that another process asked this one for.
    pub(crate) fn count_served(&self, kind: OpKind, outcome: Result<&Reply, &DbError>) {
        self.served
            .with_label_values(&[kind.name(), label(outcome)])
            .inc();
    }

    /// How many ops ran at `locality`, whatever their outcome.
    #[must_use]
    pub fn ops_at(&self, locality: Locality) -> u64 {
        self.ops
            .collect()
            .iter()
            .flat_map(|family| family.get_metric().iter())
            .filter(|metric| {
                metric
                    .get_label()
                    .iter()
                    .any(|label| label.name() == "locality" && label.value() == locality.name())
            })
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum()
    }

    /// Notes one durable batch of `commits` writes.
    pub(crate) fn synced(&self, commits: u64, took: Duration) {
        self.syncs.inc();
        self.commits.inc_by(commits);
        self.sync_seconds.observe(took.as_secs_f64());
    }
}

const fn label(outcome: Result<&Reply, &DbError>) -> &'static str {
    match outcome {
        Ok(Reply::Conflict { .. }) => "conflict",
        Ok(_) => "ok",
        Err(error) => error.kind(),
    }
}
