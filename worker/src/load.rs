//! How busy the worker is, how much it takes, and whether it still takes anything.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use tokio::sync::Notify;

/// Bounds of the advice when to come back, in milliseconds.
const RETRY_AFTER_MS: std::ops::RangeInclusive<u64> = 5..=500;

/// The load of one worker.
#[derive(Debug)]
pub struct Load {
    in_flight: AtomicU32,
    /// Requests that got a place, ever, and those that gave it back.
    received: AtomicU64,
    completed: AtomicU64,
    capacity: u32,
    draining: AtomicBool,
    /// Smoothed time of a request.
    typical_us: AtomicU64,
    changed: Notify,
    idle: Notify,
    /// Told of a place that became free while somebody waited for one.
    freed: Notify,
    /// Whether the next free place is promised to who waits for one.
    is_promised: AtomicBool,
    /// The thread that tells the balancer of each change.
    reporter: OnceLock<Thread>,
}

/// The right to run one request; gives it back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Load>);

impl Load {
    /// No load, with room for `capacity` requests at a time.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            received: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            capacity,
            draining: AtomicBool::new(false),
            typical_us: AtomicU64::new(0),
            changed: Notify::new(),
            idle: Notify::new(),
            freed: Notify::new(),
            is_promised: AtomicBool::new(false),
            reporter: OnceLock::new(),
        }
    }

    /// Takes one of the places; `None` when all are taken.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Option<Permit> {
        // One place less for newcomers while somebody waits for the next one.
        let is_promised = self.is_promised.load(Ordering::Acquire);
        let permit = self.take_place(self.capacity - u32::from(is_promised));
        if permit.is_none() && is_promised {
            // For a moment this attempt may have been in the way of who waits.
            self.freed.notify_one();
        }
        permit
    }

    /// Takes one of the places, waiting for one if need be. For requests that were admitted before and cannot go
    /// elsewhere; one caller at a time.
    pub async fn place(self: &Arc<Self>) -> Permit {
        if let Some(permit) = self.take_place(self.capacity) {
            return permit;
        }
        loop {
            self.is_promised.store(true, Ordering::Release);
            let freed = self.freed.notified();
            if let Some(permit) = self.take_place(self.capacity) {
                self.is_promised.store(false, Ordering::Release);
                return permit;
            }
            freed.await;
        }
    }

    fn take_place(self: &Arc<Self>, places: u32) -> Option<Permit> {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= places {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.received.fetch_add(1, Ordering::Release);
        self.has_changed();
        Some(Permit(Arc::clone(self)))
    }

    /// Whether all places are taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) >= self.capacity
    }

    /// Requests received and not answered.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed).min(self.capacity)
    }

    /// Requests that got a place, ever, and those of them that have ended. The first is read later, so that a request is
    /// rather taken for one in flight than forgotten.
    #[must_use]
    pub fn ever(&self) -> (u64, u64) {
        let completed = self.completed.load(Ordering::Acquire);
        (self.received.load(Ordering::Acquire), completed)
    }

    /// Unparks `thread` on each change from now on. Only the first call counts.
    pub fn wake_on_change(&self, thread: Thread) {
        self.reporter.get_or_init(|| thread);
    }

    fn has_changed(&self) {
        self.changed.notify_one();
        if let Some(reporter) = self.reporter.get() {
            reporter.unpark();
        }
    }

    /// Requests taken at a time.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// From now on, takes no new requests.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Whether new requests are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Waits for the next change.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until no request is in flight.
    pub async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Takes note of how long a request took.
    pub fn took(&self, time: Duration) {
        let sample = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let old = self.typical_us.load(Ordering::Relaxed);
        // Two that race lose one sample of an average.
        self.typical_us
            .store(old - old / 8 + sample / 8, Ordering::Relaxed);
    }

    /// When a refused caller should come back: after about one request's time.
    #[must_use]
    pub fn retry_after_ms(&self) -> u32 {
        let typical_ms = self.typical_us.load(Ordering::Relaxed) / 1_000;
        let wait = typical_ms.clamp(*RETRY_AFTER_MS.start(), *RETRY_AFTER_MS.end());
        u32::try_from(wait).unwrap_or(u32::MAX)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.completed.fetch_add(1, Ordering::Release);
        let was_last = self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1;
        self.0.has_changed();
        if self.0.is_promised.load(Ordering::Acquire) {
            self.0.freed.notify_one();
        }
        if was_last {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_permits_than_places() {
        let load = Arc::new(Load::new(2));
        let first = load.admit().unwrap();
        let _second = load.admit().unwrap();
        assert!(load.admit().is_none());
        assert_eq!(load.in_flight(), 2);
        drop(first);
        assert!(load.admit().is_some());
    }

    #[tokio::test]
    async fn the_next_free_place_is_for_who_waits_for_one() {
        let load = Arc::new(Load::new(1));
        let first = load.admit().unwrap();
        let waiter = tokio::spawn({
            let load = Arc::clone(&load);
            async move { load.place().await }
        });
        while !load.is_promised.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        drop(first);
        assert!(load.admit().is_none(), "a newcomer took the promised place");
        let second = waiter.await.unwrap();
        drop(second);
        assert!(load.admit().is_some());
    }

    #[tokio::test]
    async fn idle_waits_for_the_last_permit() {
        let load = Arc::new(Load::new(2));
        load.idle().await;
        let permit = load.admit().unwrap();
        let waiter = tokio::spawn({
            let load = Arc::clone(&load);
            async move { load.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(permit);
        waiter.await.unwrap();
    }

    #[test]
    fn advice_when_to_come_back_follows_the_time_requests_take() {
        let load = Load::new(1);
        assert_eq!(load.retry_after_ms(), 5);
        for _ in 0..100 {
            load.took(Duration::from_millis(80));
        }
        assert!(
            (70..=80).contains(&load.retry_after_ms()),
            "{}",
            load.retry_after_ms()
        );
    }
}
