//! What is counted of streams.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::{End, Refused};
use crate::metrics::{gauge_in, vec_in};

/// Counters of streams. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct StreamMetrics {
    ends: IntCounterVec,
    tickets: IntCounterVec,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    offered: IntGauge,
    open: IntGauge,
}

impl StreamMetrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// When `registry` already has counters of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ends = vec_in(
            registry,
            "worker_streams_total",
            "Streams that are over, by how they ended.",
            &["end"],
        )?;
        let tickets = vec_in(
            registry,
            "worker_stream_tickets_refused_total",
            "Exchanges whose ticket was refused, by why.",
            &["reason"],
        )?;
        let bytes = vec_in(
            registry,
            "worker_stream_bytes_total",
            "Bytes that streams carried, by direction.",
            &["direction"],
        )?;
        for end in End::ALL {
            ends.with_label_values(&[end.name()]);
        }
        for refused in Refused::ALL {
            tickets.with_label_values(&[refused.name()]);
        }
        Ok(Self {
            ends,
            tickets,
            bytes_in: bytes.with_label_values(&["in"]),
            bytes_out: bytes.with_label_values(&["out"]),
            offered: gauge_in(
                registry,
                "worker_stream_tickets",
                "Tickets of streams that nobody has come with yet.",
            )?,
            open: gauge_in(registry, "worker_streams_open", "Streams that go on.")?,
        })
    }

    /// A stream is over.
    pub(crate) fn ended(&self, end: End, bytes_in: u64, bytes_out: u64) {
        self.ends.with_label_values(&[end.name()]).inc();
        self.bytes_in.inc_by(bytes_in);
        self.bytes_out.inc_by(bytes_out);
    }

    /// A ticket is refused.
    pub(crate) fn refused(&self, refused: Refused) {
        self.tickets.with_label_values(&[refused.name()]).inc();
    }

    /// So many tickets are out, and streams open.
    pub(crate) fn show(&self, (offered, open): (usize, usize)) {
        let narrow = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.offered.set(narrow(offered));
        self.open.set(narrow(open));
    }

    /// How many streams ended so.
    #[must_use]
    pub fn ends(&self, end: End) -> u64 {
        self.ends.with_label_values(&[end.name()]).get()
    }

    /// How many tickets were refused for that.
    #[must_use]
    pub fn refusals(&self, refused: Refused) -> u64 {
        self.tickets.with_label_values(&[refused.name()]).get()
    }
}
