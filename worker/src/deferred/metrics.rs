//! What is counted of calls that nobody waits for, and how many there are.

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use warmpath_sdk::deferred::{SHELVES, State};

use super::now_ms;

/// What came of an attempt, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It succeeded.
    Done,
    /// It failed by the function's or its caller's fault, and counts.
    Function,
    /// It failed by the platform's, and does not.
    Platform,
}

impl Attempt {
    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Function => "failed",
            Self::Platform => "platform",
        }
    }
}

/// The counters of calls that nobody waits for. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct DeferredMetrics {
    kept: IntCounter,
    attempts: IntCounterVec,
    ended: IntCounterVec,
    pending: IntGauge,
    running: IntGauge,
    dead: IntGauge,
    oldest: IntGauge,
}

impl DeferredMetrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// When `registry` already has counters of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name, help, label| IntCounterVec::new(Opts::new(name, help), &[label]);
        let metrics = Self {
            kept: IntCounter::new(
                "worker_async_kept_total",
                "Calls that nobody waits for, kept by this worker.",
            )?,
            attempts: counters(
                "worker_async_attempts_total",
                "Attempts at such calls and those of feeds: done, failed by the function's or caller's fault, or by the platform's, which does not count.",
                "outcome",
            )?,
            ended: counters(
                "worker_async_ended_total",
                "Such calls that ended: done, or failed, which is given up.",
                "state",
            )?,
            pending: IntGauge::new(
                "worker_async_pending",
                "Such calls on this worker's shelves, those that run among them.",
            )?,
            running: IntGauge::new(
                "worker_async_running",
                "Such calls that this worker is making.",
            )?,
            dead: IntGauge::new(
                "worker_async_dead",
                "Such calls that were given up and are still kept, by this worker's count; counted anew each five minutes.",
            )?,
            oldest: IntGauge::new(
                "worker_async_oldest_seconds",
                "How long the oldest of the pending calls has been kept; 0 without any.",
            )?,
        };
        for counter in [&metrics.attempts, &metrics.ended] {
            registry.register(Box::new(counter.clone()))?;
        }
        for gauge in [
            &metrics.pending,
            &metrics.running,
            &metrics.dead,
            &metrics.oldest,
        ] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(metrics.kept.clone()))?;
        Ok(metrics)
    }

    pub(super) fn kept(&self) {
        self.kept.inc();
    }

    pub(super) fn attempted(&self, attempt: Attempt) {
        self.attempts.with_label_values(&[attempt.name()]).inc();
    }

    pub(super) fn ended(&self, state: State) {
        let state = if state == State::Done {
            "done"
        } else {
            "failed"
        };
        self.ended.with_label_values(&[state]).inc();
    }

    pub(super) fn show(&self, book: &Book, running: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let shelves = book.shelves();
        self.pending
            .set(number(shelves.iter().map(|it| it.pending).sum()));
        self.dead
            .set(number(shelves.iter().map(|it| it.dead).sum()));
        self.running.set(number(running));
        let oldest_ms = shelves.iter().filter_map(|it| it.oldest_ms).min();
        let age_ms = oldest_ms.map_or(0, |oldest| now_ms().saturating_sub(oldest));
        self.oldest
            .set(i64::try_from(age_ms / 1_000).unwrap_or(i64::MAX));
    }
}

/// What lies on each shelf, as its owner saw it last.
#[derive(Debug)]
pub(super) struct Book(Mutex<Vec<Seen>>);

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    pending: usize,
    /// When the one that has waited longest was kept.
    oldest_ms: Option<u64>,
    dead: usize,
}

impl Book {
    pub(super) fn new() -> Self {
        Self(Mutex::new(vec![Seen::default(); SHELVES.into()]))
    }

    pub(super) fn pending(&self, shelf: u8, pending: usize, oldest_ms: Option<u64>) {
        if let Some(seen) = self.shelves().get_mut(usize::from(shelf)) {
            (seen.pending, seen.oldest_ms) = (pending, oldest_ms);
        }
    }

    pub(super) fn dead(&self, shelf: u8, dead: usize) {
        if let Some(seen) = self.shelves().get_mut(usize::from(shelf)) {
            seen.dead = dead;
        }
    }

    pub(super) fn died(&self, shelf: u8) {
        if let Some(seen) = self.shelves().get_mut(usize::from(shelf)) {
            seen.dead += 1;
        }
    }

    pub(super) fn revived(&self, shelf: u8) {
        if let Some(seen) = self.shelves().get_mut(usize::from(shelf)) {
            seen.dead = seen.dead.saturating_sub(1);
        }
    }

    fn shelves(&self) -> MutexGuard<'_, Vec<Seen>> {
        // Numbers: whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
