//! What is counted of LOAD packets.

use prometheus::{IntCounter, IntGauge, Registry};

use super::{counter_in, gauge_in};
/// What is counted of LOAD packets. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct ReportMetrics {
    sent: IntCounter,
    failed: IntCounter,
    disagree: IntGauge,
}

impl ReportMetrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// When `registry` already has counters of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            sent: counter_in(
                registry,
                "worker_load_packets_total",
                "LOAD packets sent to the balancer.",
            )?,
            failed: counter_in(
                registry,
                "worker_load_packets_failed_total",
                "LOAD packets that the socket did not take; the next one says the same and more.",
            )?,
            disagree: gauge_in(
                registry,
                "worker_control_planes_disagree",
                "1 while the control planes give this worker several ids, or keys that are not the same.",
            )?,
        })
    }

    pub(crate) fn sent(&self) {
        self.sent.inc();
    }

    pub(crate) fn failed(&self) {
        self.failed.inc();
    }

    pub(crate) fn set_disagree(&self, disagree: bool) {
        self.disagree.set(disagree.into());
    }

    /// LOAD packets sent so far.
    #[must_use]
    pub fn sent_so_far(&self) -> u64 {
        self.sent.get()
    }

    /// LOAD packets so far that the socket did not take.
    #[must_use]
    pub fn failed_so_far(&self) -> u64 {
        self.failed.get()
    }
}
