//! The store's counters.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry, core::Collector};

/// Every counter of the store. Clones count into the same place.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    requests: IntCounterVec,
    pub(crate) functions: IntGauge,
    pub(crate) entries: IntGauge,
    pub(crate) waiting: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            registry: Registry::new(),
            requests: IntCounterVec::new(
                Opts::new(
                    "store_requests_total",
                    "Requests by what they asked for and how they ended: ok, or the error's kind.",
                ),
                &["route", "outcome"],
            )?,
            functions: IntGauge::new("store_functions", "Functions that have a version.")?,
            entries: IntGauge::new("store_catalog_entries", "Entries of the catalog.")?,
            waiting: IntGauge::new(
                "store_catalog_waiters",
                "Long polls that wait for a change.",
            )?,
        };
        let collectors: [Box<dyn Collector>; 4] = [
            Box::new(metrics.requests.clone()),
            Box::new(metrics.functions.clone()),
            Box::new(metrics.entries.clone()),
            Box::new(metrics.waiting.clone()),
        ];
        for collector in collectors {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Counts one request.
    pub(crate) fn count(&self, route: &'static str, outcome: &str) {
        self.requests.with_label_values(&[route, outcome]).inc();
    }
}
