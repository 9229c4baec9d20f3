//! Figures of requests to one kind of target.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use warmpath_sdk::{CallError, Response};

/// What was sent to one kind of target, and what came back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Series {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered with success.
    pub answered: u64,
    /// Requests answered after being sent more than once.
    pub retried: u64,
    /// Failed requests by what their error says, which begins with the status.
    pub failures: BTreeMap<String, u64>,
    /// Packets that left the socket.
    pub packets: u64,
    /// How long the turns took, all together.
    pub elapsed_us: u64,
    /// Answers by worker id.
    pub workers: BTreeMap<u16, u64>,
    /// Latencies of the answered ones.
    pub latency: Histogram,
}

impl Series {
    /// Counts the end of one call.
    pub(super) fn add(&mut self, result: &Result<Response, CallError>, took: Duration) {
        self.sent += 1;
        match result {
            Ok(response) => {
                self.answered += 1;
                self.retried += u64::from(is_retried(response));
                self.latency.add(took);
                if let Some(worker) = response.worker() {
                    *self.workers.entry(worker.0).or_default() += 1;
                }
            }
            Err(error) => *self.failures.entry(error.to_string()).or_default() += 1,
        }
    }

    /// Answers a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.answered as f64 * 1e6 / (self.elapsed_us.max(1) as f64)
    }
}

/// Whether a reply took more than one packet a fragment.
pub(super) const fn is_retried(response: &Response) -> bool {
    response.attempts > 1 || response.retransmits > 0
}

/// Latencies, in steps of a microsecond below 1 ms and of a thousandth above.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Histogram {
    /// Microseconds → how many.
    counts: BTreeMap<u64, u64>,
}

impl Histogram {
    pub(super) fn add(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let step = (us / 1_000).max(1);
        *self.counts.entry(us / step * step).or_default() += 1;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The latency that `share` (0 to 1) of all do not exceed; 0 if there are none.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> u64 {
        let rank = (self.len() as f64 * share).ceil().max(1.0);
        let mut seen = 0;
        for (us, count) in &self.counts {
            seen += count;
            if seen as f64 >= rank {
                return *us;
            }
        }
        0
    }

    /// Each latency and how many had it, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().map(|(us, count)| (*us, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut histogram = Histogram::default();
        for us in 1..=100 {
            histogram.add(Duration::from_micros(us));
        }
        let at = |share| histogram.quantile_us(share);
        assert_eq!((at(0.5), at(0.99), at(1.0)), (50, 99, 100));
        assert_eq!(Histogram::default().quantile_us(0.5), 0);
    }
}
