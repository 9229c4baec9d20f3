//! What the worker counts, and its `/metrics` endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ebpf_common::wire::{HeaderError, Status};
use prometheus::{
    CounterVec, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use crate::{
    bill::{Line, OTHER},
    load::Load,
    park::WakeReason,
    pool::{Path, PoolSnapshot},
    rpc::TableSize,
};

/// Upper bounds, in seconds, of the request latency's buckets: from a warm reply to a long timeout.
const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5,
    1.0, 5.0, 30.0,
];

/// Declares what may become of a packet once: variant, label, and the header error it stands for.
macro_rules! fates {
    ($($(#[doc = $help:literal])+ $variant:ident = $label:literal $(from $error:ident)?;)+) => {
        /// What became of a packet; each is counted under exactly one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum PacketFate { $($(#[doc = $help])+ $variant,)+ }

        impl PacketFate {
            const LABELS: &'static [&'static str] = &[$($label,)+];

            /// The fate of a packet whose header has `error`.
            #[must_use]
            pub const fn of(error: HeaderError) -> Self {
                match error { $($(HeaderError::$error => Self::$variant,)?)+ }
            }
        }
    };
}

fates! {
    /// Part of a request.
    Request = "request";
    /// Answered without a handler.
    Ping = "ping";
    /// Asked for missing fragments.
    Resume = "resume";
    /// Gave a request up.
    Cancel = "cancel";
    /// Dropped: shorter than a header.
    Truncated = "drop_truncated";
    /// Dropped: not our protocol.
    Magic = "drop_magic" from Magic;
    /// Dropped: another version of it.
    Version = "drop_version" from Version;
    /// Dropped: no kind of packet.
    Kind = "drop_kind" from Kind;
    /// Dropped: a flag without a meaning.
    Flags = "drop_flags" from Flags;
    /// Dropped: the header's length is not 64.
    HeaderLen = "drop_header_len" from HeaderLen;
    /// Dropped: fragment number or length contradicts the others.
    Fragment = "drop_fragment" from Fragment;
    /// Dropped: no such slot.
    Slot = "drop_slot" from Slot;
    /// Dropped: the payload's length is not what the datagram carries.
    Length = "drop_length" from Length;
    /// Dropped: an answer, or a load report.
    UnexpectedKind = "drop_unexpected_kind";
}

/// What the RPC server counts. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct RpcMetrics {
    packets: Arc<[IntCounter]>,
    requests: Arc<[IntCounter]>,
    warm_seconds: Histogram,
    cold_seconds: Histogram,
    replays: IntCounter,
    acknowledgements: IntCounter,
    sends_failed: IntCounter,
    wakes: IntCounterVec,
    cancelled: IntCounterVec,
}

impl RpcMetrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// When `registry` already has counters of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let packets = vec_in(
            registry,
            "worker_packets_total",
            "Packets received, by fate.",
            &["fate"],
        )?;
        let requests = vec_in(
            registry,
            "worker_requests_total",
            "Requests answered, refused ones included, by status and by whose fault it was.",
            &["status", "fault"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "worker_request_seconds",
                "From a request's last fragment to its outcome, by whether an instance was started for it.",
            )
            .buckets(SECONDS.to_vec()),
            &["start"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let labels = PacketFate::LABELS.iter();
        let statuses = Status::ALL.iter();
        Ok(Self {
            packets: labels
                .map(|label| packets.with_label_values(&[label]))
                .collect(),
            requests: statuses
                .map(|status| requests.with_label_values(&[status.name(), status.fault().name()]))
                .collect(),
            warm_seconds: seconds.with_label_values(&["warm"]),
            cold_seconds: seconds.with_label_values(&["cold"]),
            replays: counter_in(
                registry,
                "worker_replies_repeated_total",
                "Repeated requests answered from the reply cache.",
            )?,
            acknowledgements: counter_in(
                registry,
                "worker_acknowledgements_total",
                "Requests acknowledged because their handler took its time.",
            )?,
            sends_failed: counter_in(
                registry,
                "worker_sends_failed_total",
                "Answers that the socket did not take; their clients ask again.",
            )?,
            wakes: vec_in(
                registry,
                "worker_wakes_total",
                "Parked requests whose handlers ran again, by what woke them.",
                &["reason"],
            )?,
            cancelled: vec_in(
                registry,
                "worker_cancelled_total",
                "Requests that their callers gave up, by where that met them.",
                &["while"],
            )?,
        })
    }

    pub(crate) fn packet(&self, fate: PacketFate) {
        if let Some(counter) = self.packets.get(fate as usize) {
            counter.inc();
        }
    }

    pub(crate) fn refused(&self, status: Status) {
        let index = Status::ALL.iter().position(|other| *other == status);
        if let Some(counter) = index.and_then(|index| self.requests.get(index)) {
            counter.inc();
        }
    }

    pub(crate) fn served(&self, status: Status, took: Duration, cold: bool) {
        self.refused(status);
        let histogram = if cold {
            &self.cold_seconds
        } else {
            &self.warm_seconds
        };
        histogram.observe(took.as_secs_f64());
    }

    pub(crate) fn replayed(&self) {
        self.replays.inc();
    }

    pub(crate) fn acknowledged(&self) {
        self.acknowledgements.inc();
    }

    pub(crate) fn send_failed(&self) {
        self.sends_failed.inc();
    }

    pub(crate) fn woken(&self, reason: WakeReason) {
        self.wakes.with_label_values(&[reason.name()]).inc();
    }

    pub(crate) fn cancelled(&self, place: &'static str) {
        self.cancelled.with_label_values(&[place]).inc();
    }

    /// Requests so far that their callers gave up while they were `place`: `running` or `parked`.
    #[must_use]
    pub fn cancels(&self, place: &str) -> u64 {
        self.cancelled.with_label_values(&[place]).get()
    }

    /// Requests acknowledged so far because their handler took its time.
    #[must_use]
    pub fn acknowledgements(&self) -> u64 {
        self.acknowledgements.get()
    }

    /// Repeated requests answered from the reply cache so far.
    #[must_use]
    pub fn replays(&self) -> u64 {
        self.replays.get()
    }
}

/// What is counted of LOAD packets. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct ReportMetrics {
    sent: IntCounter,
    failed: IntCounter,
}

impl ReportMetrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// When `registry` already has counters of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            sent: counter_in(
                registry,
                "worker_load_packets_total",
                "LOAD packets sent to the balancer.",
            )?,
            failed: counter_in(
                registry,
                "worker_load_packets_failed_total",
                "LOAD packets that the socket did not take; the next one says the same and more.",
            )?,
        })
    }

    pub(crate) fn sent(&self) {
        self.sent.inc();
    }

    pub(crate) fn failed(&self) {
        self.failed.inc();
    }

    /// LOAD packets sent so far.
    #[must_use]
    pub fn sent_so_far(&self) -> u64 {
        self.sent.get()
    }

    /// LOAD packets so far that the socket did not take.
    #[must_use]
    pub fn failed_so_far(&self) -> u64 {
        self.failed.get()
    }
}

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

/// What instances do, as their gauge names it.
const STATES: [&str; 4] = ["warm", "paused", "busy", "starting"];

/// What is read from elsewhere whenever somebody scrapes.
#[derive(Debug)]
pub struct Gauges {
    in_flight: IntGauge,
    capacity: IntGauge,
    draining: IntGauge,
    replies: IntGauge,
    reply_bytes: IntGauge,
    receiving: IntGauge,
    receiving_bytes: IntGauge,
    evicted: IntCounter,
    parked: IntGauge,
    parked_bytes: IntGauge,
    instances: [IntGauge; 4],
    prepared: IntGauge,
    waiting: IntGauge,
    functions: IntGauge,
    memory_mb: IntGauge,
    paths: [IntCounter; Path::ALL.len()],
    /// Because nobody came, and because their memory was needed.
    evictions: [IntCounter; 2],
    landlock: IntGauge,
    networks: IntGauge,
    destroyed: IntCounter,
    log_bytes: IntCounter,
    secret_failures: IntCounter,
    profile_samples: IntCounter,
    zygote_restarts: IntCounter,
    unbilled_cpu_ns: IntCounter,
    zygotes: IntGauge,
    zygote_memory_mb: IntGauge,
    zygote_ready: IntGauge,
    zygotes_grown: IntCounter,
    zygotes_ended: IntCounter,
    zygotes_unfit: IntCounter,
    zygote_forks: IntCounter,
    prewarmed: IntCounter,
}

impl Gauges {
    /// Makes the gauges and registers them.
    ///
    /// # Errors
    /// When `registry` already has gauges of these names.
    pub fn register(
        registry: &Registry,
        thaw: Histogram,
        rootfs: &str,
    ) -> Result<Self, prometheus::Error> {
        registered(registry, thaw)?;
        let info = Opts::new(
            "worker_rootfs_info",
            "1, with the system that sandboxes have: `host`, digits of its digest, or its path.",
        );
        let info = registered(registry, IntGaugeVec::new(info, &["rootfs"])?)?;
        info.with_label_values(&[rootfs]).set(1);
        let gauge = |name, help| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let counter = |name, help| counter_in(registry, name, help);
        Ok(Self {
            in_flight: gauge("worker_in_flight", "Requests received and not answered.")?,
            capacity: gauge("worker_capacity", "Requests taken at a time.")?,
            draining: gauge("worker_draining", "1 when no new requests are taken.")?,
            replies: gauge(
                "worker_reply_cache_entries",
                "Replies kept for repeated requests.",
            )?,
            reply_bytes: gauge(
                "worker_reply_cache_bytes",
                "Bytes of them, book-keeping included.",
            )?,
            receiving: gauge(
                "worker_reassembly_entries",
                "Requests of which fragments are missing.",
            )?,
            receiving_bytes: gauge(
                "worker_reassembly_bytes",
                "Bytes of them, book-keeping included.",
            )?,
            evicted: counter(
                "worker_entries_evicted_total",
                "Replies and partial requests dropped early for want of room.",
            )?,
            parked: gauge(
                "worker_parked",
                "Requests whose handlers wait for something, with no instance held.",
            )?,
            parked_bytes: gauge(
                "worker_parked_bytes",
                "Bytes of them, book-keeping included.",
            )?,
            instances: {
                let states = IntGaugeVec::new(
                    Opts::new("worker_instances", "Instances, by what they do."),
                    &["state"],
                )?;
                let states = registered(registry, states)?;
                STATES.map(|state| states.with_label_values(&[state]))
            },
            prepared: gauge(
                "worker_sandboxes_prepared",
                "Sandboxes ready for any function.",
            )?,
            waiting: gauge(
                "worker_requests_waiting",
                "Requests that wait for an instance.",
            )?,
            functions: gauge(
                "worker_functions_warm",
                "Functions with at least one instance.",
            )?,
            memory_mb: gauge(
                "worker_memory_mb",
                "Sum of the memory limits of all instances.",
            )?,
            paths: {
                let paths = vec_in(
                    registry,
                    "worker_cold_starts_total",
                    "Requests, by where their instance came from: warm and paused are no cold starts.",
                    &["path"],
                )?;
                Path::ALL.map(|path| paths.with_label_values(&[path.name()]))
            },
            evictions: {
                let evictions = vec_in(
                    registry,
                    "worker_evictions_total",
                    "Instances ended because nobody came, or because their memory was needed.",
                    &["reason"],
                )?;
                ["idle", "memory"].map(|reason| evictions.with_label_values(&[reason]))
            },
            networks: gauge("worker_networks", "Sandboxes that have a network.")?,
            landlock: gauge(
                "worker_landlock_version",
                "Version of Landlock that instances are behind; 0 on a kernel without it.",
            )?,
            destroyed: counter(
                "worker_instances_destroyed_total",
                "Instances ended after a timeout, a crash, a bad reply or for want of memory.",
            )?,
            log_bytes: counter("worker_log_bytes_total", "Bytes that handlers printed.")?,
            profile_samples: counter(
                "worker_profile_samples_total",
                "Samples in the profiles of functions that were taken.",
            )?,
            secret_failures: counter(
                "worker_secret_failures_total",
                "Instances not started for want of a secret, or because others could read it.",
            )?,
            zygote_restarts: counter(
                "worker_zygote_restarts_total",
                "Starts of a zygote beyond the first.",
            )?,
            unbilled_cpu_ns: counter(
                "worker_unbilled_cpu_nanoseconds_total",
                "CPU time of ended instances that no request was charged.",
            )?,
            zygotes: gauge("worker_package_zygotes", "Zygotes with packages imported.")?,
            zygote_memory_mb: gauge("worker_package_zygote_memory_mb", "What they take.")?,
            zygote_ready: gauge(
                "worker_package_zygote_ready",
                "Instances that they have forked ahead of need.",
            )?,
            zygotes_grown: counter(
                "worker_package_zygotes_grown_total",
                "Zygotes with packages that were grown.",
            )?,
            zygotes_ended: counter(
                "worker_package_zygotes_ended_total",
                "Those of them that were ended: for their memory, or because they did not fork.",
            )?,
            zygotes_unfit: counter(
                "worker_package_zygotes_unfit_total",
                "Sets of packages that cannot be a zygote: they start threads, or end.",
            )?,
            prewarmed: counter(
                "worker_prewarmed_total",
                "Instances that were started because an operator asked for them.",
            )?,
            zygote_forks: counter(
                "worker_package_zygote_forks_total",
                "Instances forked from a zygote with packages.",
            )?,
        })
    }

    pub(crate) fn show(
        &self,
        load: &Load,
        table: TableSize,
        (parked, parked_bytes): (usize, usize),
        pool: &PoolSnapshot,
    ) {
        self.in_flight.set(load.in_flight().into());
        self.capacity.set(load.capacity().into());
        self.draining.set(load.is_draining().into());
        let [warm, paused, busy, starting] = &self.instances;
        for (gauge, value) in [
            (&self.replies, table.done),
            (&self.reply_bytes, table.done_bytes),
            (&self.receiving, table.receiving),
            (&self.receiving_bytes, table.receiving_bytes),
            (&self.parked, parked),
            (&self.parked_bytes, parked_bytes),
            (warm, pool.idle),
            (paused, pool.paused),
            (busy, pool.busy),
            (starting, pool.starting),
            (&self.prepared, pool.prepared),
            (&self.waiting, pool.waiting),
            (&self.functions, pool.functions),
            (&self.networks, pool.networks),
            (&self.zygotes, pool.zygotes),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.landlock.set(pool.landlock.into());
        self.memory_mb
            .set(i64::try_from(pool.memory_mb).unwrap_or(i64::MAX));
        self.zygote_memory_mb
            .set(i64::try_from(pool.zygote_memory_mb).unwrap_or(i64::MAX));
        self.zygote_ready
            .set(i64::try_from(pool.zygote_ready).unwrap_or(i64::MAX));
        let [by_idleness, by_memory] = &self.evictions;
        for (counter, value) in [
            (&self.evicted, table.evicted),
            (by_idleness, pool.evictions - pool.evicted_for_memory),
            (by_memory, pool.evicted_for_memory),
            (&self.destroyed, pool.destroyed),
            (&self.log_bytes, pool.log_bytes),
            (&self.secret_failures, pool.secret_failures),
            (&self.profile_samples, pool.profile_samples),
            (&self.zygote_restarts, pool.zygote_restarts),
            (&self.unbilled_cpu_ns, pool.unbilled_cpu_ns),
            (&self.zygotes_grown, pool.zygotes_grown),
            (&self.zygotes_ended, pool.zygotes_ended),
            (&self.zygotes_unfit, pool.zygotes_unfit),
            (&self.zygote_forks, pool.zygote_forks),
            (&self.prewarmed, pool.prewarmed),
        ] {
            counter.inc_by(value.saturating_sub(counter.get()));
        }
        for (counter, value) in self.paths.iter().zip(pool.paths) {
            counter.inc_by(value.saturating_sub(counter.get()));
        }
    }
}

/// Everything in `registry` in Prometheus' text format.
pub(crate) fn render(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

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

fn counter_in(
    registry: &Registry,
    name: &str,
    help: &str,
) -> Result<IntCounter, prometheus::Error> {
    registered(registry, IntCounter::new(name, help)?)
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

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
