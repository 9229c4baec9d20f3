//! The meter of one live instance: the split, and the counters it is fed from.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{Charge, Meter, Reading, Ticket};
use crate::sandbox::Consumption;

/// Charges the requests of one instance. Each call reads one or two counters, about a microsecond.
#[derive(Debug)]
pub struct Gauge {
    split: Mutex<Meter>,
    born: Instant,
    peak_bytes: AtomicU64,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            split: Mutex::default(),
            born: Instant::now(),
            peak_bytes: AtomicU64::new(0),
        }
    }
}

impl Gauge {
    /// A request begins.
    pub fn begin(&self, counters: &Consumption) -> Ticket {
        let now = self.now(counters);
        self.split().begin(now)
    }

    /// A request ends: its charge.
    pub fn end(&self, ticket: Ticket, counters: &Consumption) -> Charge {
        let now = self.now(counters);
        self.split().end(ticket, now)
    }

    /// Nothing runs any more: the CPU time that no request was charged.
    pub fn remainder(&self, counters: &Consumption) -> u64 {
        let now = self.now(counters);
        self.split().remainder(now)
    }

    /// Most memory since this was asked last, in kilobytes; on kernels that cannot forget a peak, since the
    /// instance's start. 0 when the kernel does not say.
    pub fn peak_kb(&self, counters: &Consumption) -> u64 {
        let Some(peak) = counters.peak_bytes() else {
            return 0;
        };
        // Forgetting costs a second system call, and is for nothing while the peak stays where it was.
        if self.peak_bytes.swap(peak, Ordering::Relaxed) != peak {
            counters.forget_peak();
        }
        peak >> 10
    }

    fn now(&self, counters: &Consumption) -> Reading {
        Reading {
            // A group that is gone has used nothing more.
            cpu_ns: counters.cpu_ns().unwrap_or(0),
            at_us: u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn split(&self) -> MutexGuard<'_, Meter> {
        self.split.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
