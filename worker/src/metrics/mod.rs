//! What the worker counts, and its `/metrics` endpoint.

mod bill;
mod gauges;
mod report;
mod rpc;

use prometheus::{
    Encoder, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector,
};

pub use self::{
    bill::BillMetrics,
    gauges::Gauges,
    report::ReportMetrics,
    rpc::{PacketFate, RpcMetrics},
};

/// Everything in `registry` in Prometheus' text format.
pub(crate) fn render(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Counters with labels in `registry`.
pub(crate) fn vec_in(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registered(registry, counters)
}

/// A gauge in `registry`.
pub(crate) fn gauge_in(
    registry: &Registry,
    name: &str,
    help: &str,
) -> Result<IntGauge, prometheus::Error> {
    registered(registry, IntGauge::new(name, help)?)
}

/// A counter in `registry`.
fn counter_in(
    registry: &Registry,
    name: &str,
    help: &str,
) -> Result<IntCounter, prometheus::Error> {
    registered(registry, IntCounter::new(name, help)?)
}

/// `metric`, once it is in `registry`.
fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
