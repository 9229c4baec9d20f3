//! How long to wait for an answer: Jacobson's estimator with exponential back-off and jitter.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rand::Rng;

use crate::config::ClientConfig;

/// Smoothed round-trip time and its variation, in microseconds; both 0 until there is a sample.
///
/// Two samples that race lose one of them, which an estimate can bear and a lock would cost more.
#[derive(Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed_us: AtomicU64,
    variation_us: AtomicU64,
}

impl RoundTrip {
    /// Takes in a sample of a request that was not retransmitted (Karn).
    pub(crate) fn sample(&self, took: Duration) {
        let sample = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let smoothed = self.smoothed_us.load(Ordering::Relaxed);
        let (next, variation) = if smoothed == 0 {
            (sample, sample / 2)
        } else {
            let old = self.variation_us.load(Ordering::Relaxed);
            let variation = old - old / 4 + smoothed.abs_diff(sample) / 4;
            (smoothed - smoothed / 8 + sample / 8, variation)
        };
        self.smoothed_us.store(next.max(1), Ordering::Relaxed);
        self.variation_us.store(variation, Ordering::Relaxed);
    }

    /// The wait before a first retransmission.
    pub(crate) fn retransmit_after(&self, config: &ClientConfig) -> Duration {
        let smoothed = self.smoothed_us.load(Ordering::Relaxed);
        let wait = if smoothed == 0 {
            config.initial_retransmit
        } else {
            let variation = self.variation_us.load(Ordering::Relaxed);
            Duration::from_micros(smoothed.saturating_add(variation.saturating_mul(4)))
        };
        wait.min(config.max_retransmit).max(config.min_retransmit)
    }
}

/// The `step`-th wait of a series that starts at `base` and doubles up to `max`, lengthened by up to
/// a quarter at random, so that clients which lost packets together do not return together.
pub(crate) fn backoff(base: Duration, step: u32, max: Duration) -> Duration {
    let doubled = base.saturating_mul(1 << step.min(16)).min(max);
    let jitter = doubled.as_micros() / 4;
    let jitter = rand::rng().random_range(0..=u64::try_from(jitter).unwrap_or(u64::MAX));
    doubled + Duration::from_micros(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_wait_follows_the_round_trip_within_its_bounds() {
        let config = ClientConfig::default();
        let trip = RoundTrip::default();
        assert_eq!(trip.retransmit_after(&config), config.initial_retransmit);
        for _ in 0..50 {
            trip.sample(Duration::from_micros(50));
        }
        assert_eq!(trip.retransmit_after(&config), config.min_retransmit);
        for _ in 0..50 {
            trip.sample(80 * MS);
        }
        let wait = trip.retransmit_after(&config);
        assert!(wait > 80 * MS && wait <= config.max_retransmit, "{wait:?}");
    }

    #[test]
    fn back_off_doubles_up_to_its_maximum() {
        for (step, least) in [(0, 20), (1, 40), (2, 80), (3, 100), (60, 100)] {
            let wait = backoff(20 * MS, step, 100 * MS);
            assert!(
                wait >= least * MS && wait <= least * MS * 5 / 4,
                "{step}: {wait:?}"
            );
        }
    }
}
