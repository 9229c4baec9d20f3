//! What is counted of triggers.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use warmpath_sdk::trigger::TriggerKind;

use super::Board;

/// What a trigger came to, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulled {
    /// A tick's call is kept.
    Kept,
    /// A feed's call succeeded.
    Done,
    /// An attempt at a feed's call failed.
    Failed,
    /// A feed's call was given up.
    Dead,
}

impl Pulled {
    const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Dead => "dead",
        }
    }
}

/// The counters of triggers. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct TriggerMetrics {
    pulled: IntCounterVec,
    missed: IntCounter,
    held_back: IntCounter,
    here: IntGaugeVec,
    lag: IntGauge,
}

impl TriggerMetrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// When `registry` already has counters of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            pulled: IntCounterVec::new(
                Opts::new(
                    "worker_trigger_pulls_total",
                    "Triggers pulled, by kind and by what came of it: a tick's call kept; a feed's call done, failed or dead.",
                ),
                &["kind", "outcome"],
            )?,
            missed: IntCounter::new(
                "worker_trigger_missed_total",
                "Times of schedules that passed while nobody pulled, and were not made up for.",
            )?,
            held_back: IntCounter::new(
                "worker_trigger_held_back_total",
                "Calls of feeds that waited for `per_second`.",
            )?,
            here: IntGaugeVec::new(
                Opts::new(
                    "worker_triggers",
                    "Triggers that this worker pulls, by kind.",
                ),
                &["kind"],
            )?,
            lag: IntGauge::new(
                "worker_trigger_lag_records",
                "Records that the feed trigger furthest behind has still to look at.",
            )?,
        };
        registry.register(Box::new(metrics.pulled.clone()))?;
        registry.register(Box::new(metrics.missed.clone()))?;
        registry.register(Box::new(metrics.held_back.clone()))?;
        registry.register(Box::new(metrics.here.clone()))?;
        registry.register(Box::new(metrics.lag.clone()))?;
        Ok(metrics)
    }

    pub(super) fn pulled(&self, kind: TriggerKind, outcome: Pulled) {
        self.pulled
            .with_label_values(&[kind.name(), outcome.name()])
            .inc();
    }

    pub(super) fn missed(&self, ticks: u32) {
        self.missed.inc_by(ticks.into());
    }

    pub(super) fn held_back(&self) {
        self.held_back.inc();
    }

    /// Shows what `board` says now.
    pub(crate) fn show(&self, board: &Board) {
        for kind in TriggerKind::ALL {
            let here = i64::try_from(board.count(kind)).unwrap_or(i64::MAX);
            self.here.with_label_values(&[kind.name()]).set(here);
        }
        self.lag.set(i64::try_from(board.lag()).unwrap_or(i64::MAX));
    }
}
