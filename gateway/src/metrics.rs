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

/// How a stream through the gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// As it should.
    Whole,
    /// In the middle: the handler or its worker failed.
    Broken,
    /// The client hung up.
    HungUp,
}

impl StreamEnd {
    const ALL: [Self; 3] = [Self::Whole, Self::Broken, Self::HungUp];

    const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Broken => "broken",
            Self::HungUp => "hung_up",
        }
    }
}

/// The gateway's counters. Clones count into the same place.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: Histogram,
    pub(crate) connections: IntGauge,
    streams: IntCounterVec,
    streams_open: IntGauge,
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
        let streams = IntCounterVec::new(
            Opts::new(
                "gateway_streams_total",
                "Replies that came as streams, by how they ended.",
            ),
            &["end"],
        )?;
        for end in StreamEnd::ALL {
            streams.with_label_values(&[end.name()]);
        }
        let streams_open = IntGauge::new("gateway_streams_open", "Streams that pass through.")?;
        registry.register(Box::new(streams.clone()))?;
        registry.register(Box::new(streams_open.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        Ok(Self {
            registry,
            requests,
            seconds,
            connections,
            streams,
            streams_open,
        })
    }

    pub(crate) fn stream_begins(&self) {
        self.streams_open.inc();
    }

    pub(crate) fn stream_ends(&self, end: StreamEnd) {
        self.streams_open.dec();
        self.streams.with_label_values(&[end.name()]).inc();
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
