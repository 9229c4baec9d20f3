//! What functions used, by function.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use prometheus::{CounterVec, IntCounterVec, Opts, Registry};

use super::{registered, vec_in};
use crate::bill::{Line, OTHER};
/// Functions with a label of their own; what others used is under `other`.
const FUNCTIONS_MAX: usize = 100;

/// What functions used, by function. Read from the ledger whenever somebody scrapes.
#[derive(Debug)]
pub struct BillMetrics {
    requests: IntCounterVec,
    cpu_seconds: CounterVec,
    memory_mb_seconds: CounterVec,
    /// Once a function has a label it keeps it, so that no counter ever shrinks.
    named: Mutex<BTreeSet<String>>,
}

impl BillMetrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// When `registry` already has counters of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = |name, help| {
            registered(
                registry,
                CounterVec::new(Opts::new(name, help), &["function"])?,
            )
        };
        Ok(Self {
            requests: vec_in(
                registry,
                "worker_billed_requests_total",
                "Requests billed, by function.",
                &["function"],
            )?,
            cpu_seconds: seconds(
                "worker_cpu_seconds_total",
                "CPU time that requests were charged, by function.",
            )?,
            memory_mb_seconds: seconds(
                "worker_memory_mb_seconds_total",
                "Memory limit times the time that handlers ran, by function.",
            )?,
            named: Mutex::default(),
        })
    }

    pub(crate) fn show(&self, functions: BTreeMap<String, Line>) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let mut other = Line::default();
        for (function, line) in functions {
            if named.contains(&function) || named.len() < FUNCTIONS_MAX {
                self.set(&function, &line);
                named.insert(function);
            } else {
                other.merge(&line);
            }
        }
        if other.requests > 0 {
            self.set(OTHER, &other);
        }
    }

    fn set(&self, function: &str, line: &Line) {
        let requests = self.requests.with_label_values(&[function]);
        requests.inc_by(line.requests.saturating_sub(requests.get()));
        for (counters, value) in [
            (&self.cpu_seconds, line.cpu_ns as f64 / 1e9),
            (&self.memory_mb_seconds, line.memory_mb_ms as f64 / 1e3),
        ] {
            let counter = counters.with_label_values(&[function]);
            counter.inc_by((value - counter.get()).max(0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::render;

    #[test]
    fn labels_are_bounded_and_counters_never_shrink() {
        let registry = Registry::new();
        let metrics = BillMetrics::register(&registry).unwrap();
        let line = |requests| Line {
            requests,
            cpu_ns: requests * 500_000_000,
            ..Line::default()
        };
        let functions = |requests, count: usize| -> BTreeMap<String, Line> {
            (0..count)
                .map(|n| (format!("f{n:04}"), line(requests)))
                .collect()
        };
        metrics.show(functions(2, FUNCTIONS_MAX - 1));
        let mut more = functions(3, FUNCTIONS_MAX + 50);
        more.insert("a-new-one".to_owned(), line(1));
        metrics.show(more);
        let text = render(&registry).unwrap();
        assert!(
            text.contains("worker_cpu_seconds_total{function=\"f0000\"} 1.5\n"),
            "{text}"
        );
        assert!(text.contains("worker_billed_requests_total{function=\"a-new-one\"} 1\n"));
        assert!(text.contains("worker_billed_requests_total{function=\"other\"} 153\n"));
        assert!(!text.contains("f0120"));
        metrics.show(functions(1, 1));
        assert_eq!(metrics.requests.with_label_values(&["f0000"]).get(), 3);
    }
}
