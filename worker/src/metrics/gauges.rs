//! What is read from elsewhere whenever somebody scrapes.

use prometheus::{Counter, Histogram, IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

use super::{counter_in, registered, vec_in};
use crate::{
    cpu_latency::CpuLatencyStanding,
    load::Load,
    pool::{Path, PoolSnapshot},
    rpc::TableSize,
};
/// What instances do, as their gauge names it.
const STATES: [&str; 4] = ["warm", "paused", "busy", "starting"];

/// What is read from elsewhere whenever somebody scrapes.
#[derive(Debug)]
pub struct Gauges {
    in_flight: IntGauge,
    cpu_latency_held: IntGauge,
    cpu_latency_held_seconds: Counter,
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
    code_ahead: IntCounter,
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
            cpu_latency_held: gauge(
                "worker_cpu_latency_held",
                "1 while the kernel is asked that idle processors be easy to wake.",
            )?,
            cpu_latency_held_seconds: registered(
                registry,
                Counter::new(
                    "worker_cpu_latency_held_seconds_total",
                    "For how long it has been asked that.",
                )?,
            )?,
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
            code_ahead: counter(
                "worker_code_ahead_total",
                "Functions whose code and layers were made ready because of an order at the control plane.",
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
        cpu_latency: &CpuLatencyStanding,
    ) {
        self.cpu_latency_held.set(cpu_latency.is_held.into());
        let held = &self.cpu_latency_held_seconds;
        held.inc_by((cpu_latency.held_seconds - held.get()).max(0.0));
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
            (&self.code_ahead, pool.code_ahead),
        ] {
            counter.inc_by(value.saturating_sub(counter.get()));
        }
        for (counter, value) in self.paths.iter().zip(pool.paths) {
            counter.inc_by(value.saturating_sub(counter.get()));
        }
    }
}
