//! What the gateway counts.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};
use warmpath_sdk::Fault;

/// Upper bounds, in seconds, of the latency's buckets.
const SECONDS: [f64; 14] = [
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// The gateway's counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: Histogram,
    pub(crate) connections: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new(
                "gateway_requests_total",
                "HTTP requests to /run by status code, by status of the call, and by whose fault it was.",
            ),
            &["code", "status", "fault"],
        )?;
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "gateway_request_seconds",
                "From a request's head to its answer.",
            )
            .buckets(SECONDS.to_vec()),
        )?;
        let connections = IntGauge::new("gateway_connections", "HTTP connections open.")?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        Ok(Self {
            registry,
            requests,
            seconds,
            connections,
        })
    }

    pub(crate) fn answered(&self, code: u16, status: &str, fault: Fault, took: Duration) {
        self.requests
            .with_label_values(&[code.to_string().as_str(), status, fault.name()])
            .inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
