//! What Prometheus finds at `/metrics`: our own figures, and the program's counters read at each scrape.

use std::sync::{Mutex, PoisonError};

use ebpf_common::maps::{Class, Counter};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::{
    api::types::{InterfaceStatus, TrafficReport, TrafficRow},
    maps::{Counters, ReadError},
};

/// Buckets of how long a plan takes to make and begin, in seconds.
const PLAN_BUCKETS: &[f64] = &[0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.3];

/// Functions that have a metric of their own.
const TOP_FUNCTIONS: usize = 20;

/// Every metric of the control plane.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) workers: IntGaugeVec,
    pub(crate) functions: IntGauge,
    pub(crate) slot_conflicts: IntGauge,
    pub(crate) in_flight: IntGaugeVec,
    pub(crate) heartbeats: IntCounter,
    pub(crate) heartbeats_overtaken: IntCounter,
    pub(crate) joins: IntCounter,
    pub(crate) losses: IntCounter,
    pub(crate) load_silences: IntCounter,
    pub(crate) presumed: IntGauge,
    pub(crate) write_errors: IntCounter,
    pub(crate) plan_seconds: Histogram,
    pub(crate) orders: IntGauge,
    pub(crate) ordered_instances: IntGauge,
    pub(crate) ordered_missing: IntGauge,
    pub(crate) ordered_code: IntGauge,
    pub(crate) ordered_code_missing: IntGauge,
    pub(crate) order_events: IntCounterVec,
    adopted: IntGauge,
    pub(crate) map_writes: IntCounterVec,
    xdp_mode: IntGaugeVec,
    program: ProgramCounters,
}

/// The program's own counters under the names that dashboards use. The registry wants counters that are
/// added to, so a scrape sets them to what the kernel says, one scrape at a time.
#[derive(Debug)]
struct ProgramCounters {
    scrape: Mutex<()>,
    packets: IntCounter,
    outcomes: IntCounterVec,
    drops: IntCounterVec,
    details: IntCounterVec,
    vip_packets: IntCounterVec,
    vip_bytes: IntCounterVec,
    worker_packets: IntCounterVec,
    worker_bytes: IntCounterVec,
    function_packets: IntCounterVec,
}

impl Metrics {
    /// All of them, at zero.
    ///
    /// # Errors
    /// Never in practice: names are constants, and each is registered once.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        Ok(Self {
            workers: gauge_vec(r, "balancer_workers", "Workers by state.", &["state"])?,
            in_flight: gauge_vec(
                r,
                "balancer_in_flight",
                "Requests that a worker has received and not answered, as it last reported.",
                &["worker"],
            )?,
            functions: gauge(r, "balancer_functions", "Functions in the data plane.")?,
            slot_conflicts: gauge(
                r,
                "balancer_slot_conflicts",
                "Ranges of slots that two live workers claim.",
            )?,
            adopted: gauge(
                r,
                "balancer_adopted",
                "1 if pinned maps and links of an earlier control plane were taken over.",
            )?,
            heartbeats: counter(r, "balancer_heartbeats_total", "Heartbeats received.")?,
            heartbeats_overtaken: counter(
                r,
                "balancer_heartbeats_overtaken_total",
                "Heartbeats that a later one of the same worker made needless before they were looked at.",
            )?,
            joins: counter(r, "balancer_worker_joins_total", "Workers that connected.")?,
            losses: counter(r, "balancer_worker_losses_total", "Workers that went down.")?,
            presumed: gauge(
                r,
                "balancer_workers_presumed",
                "Workers without a connection that count as alive by their LOAD packets.",
            )?,
            load_silences: counter(
                r,
                "balancer_load_silences_total",
                "Workers that are up and whose LOAD packets stopped: their heartbeats count in their place.",
            )?,
            write_errors: counter(
                r,
                "balancer_map_write_errors_total",
                "Map writes that the kernel refused.",
            )?,
            plan_seconds: {
                let opts = HistogramOpts::new(
                    "balancer_reconcile_seconds",
                    "Time from an event to a plan whose urgent writes are done.",
                )
                .buckets(PLAN_BUCKETS.to_vec());
                registered(r, Histogram::with_opts(opts)?)?
            },
            orders: gauge(
                r,
                "balancer_prewarm_orders",
                "Orders of warmth in force (`warmpath fn prewarm --list`).",
            )?,
            ordered_instances: gauge(
                r,
                "balancer_prewarm_instances",
                "Instances that are to live of the functions with orders, over all workers.",
            )?,
            ordered_missing: gauge(
                r,
                "balancer_prewarm_instances_missing",
                "Those of them that no worker has said to live.",
            )?,
            ordered_code: gauge(
                r,
                "balancer_prewarm_code",
                "Workers that are to have the code of a function by orders of code, over all functions.",
            )?,
            ordered_code_missing: gauge(
                r,
                "balancer_prewarm_code_missing",
                "Those of them that have not said to have it.",
            )?,
            order_events: counter_vec(
                r,
                "balancer_prewarm_orders_total",
                "What became of orders of warmth: placed, refused, withdrawn, expired, function_gone.",
                &["event"],
            )?,
            map_writes: counter_vec(
                r,
                "balancer_map_writes_total",
                "Map writes by map.",
                &["map"],
            )?,
            xdp_mode: gauge_vec(
                r,
                "balancer_xdp_mode",
                "1 for the mode that the program runs in on an interface; generic is slow.",
                &["interface", "mode"],
            )?,
            program: ProgramCounters::new(r)?,
            registry,
        })
    }

    pub(crate) fn set_adopted(&self, adopted: bool) {
        self.adopted.set(adopted.into());
    }

    /// A worker that went down has nothing in flight that anybody would know of.
    pub(crate) fn forget_worker(&self, worker: &str) {
        // It may never have reported.
        drop(self.in_flight.remove_label_values(&[worker]));
    }

    pub(crate) fn count_write(&self, map: &str) {
        self.map_writes.with_label_values(&[map]).inc();
    }

    /// Map writes since the start.
    pub(crate) fn writes(&self) -> u64 {
        let maps = ebpf_common::maps::name::ALL;
        maps.iter()
            .map(|map| self.map_writes.with_label_values(&[*map]).get())
            .sum()
    }

    /// `interfaces` are those of the configuration, always the same ones: a row is set and never taken away, so that a scrape
    /// meanwhile misses none.
    pub(crate) fn set_interfaces(&self, interfaces: &[InterfaceStatus]) {
        for interface in interfaces {
            for mode in ["native", "generic"] {
                let is_it = interface.mode.as_deref() == Some(mode);
                let labels = [interface.name.as_str(), mode];
                self.xdp_mode.with_label_values(&labels).set(is_it.into());
            }
        }
    }

    /// Everything as Prometheus reads it.
    pub(crate) fn render(
        &self,
        counters: &Counters,
        traffic: &TrafficReport,
    ) -> Result<String, ReadError> {
        let sums = counters.sums()?;
        let guard = self
            .program
            .scrape
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.program.set(&sums);
        self.program.set_traffic(traffic);
        let families = self.registry.gather();
        drop(guard);
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&families, &mut text)
            .expect("names and labels are constants, and a Vec takes any write");
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl ProgramCounters {
    fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            scrape: Mutex::new(()),
            packets: counter(r, "balancer_packets_total", Counter::Packets.help())?,
            outcomes: counter_vec(
                r,
                "balancer_outcomes_total",
                "Packets by what became of them; the sum is balancer_packets_total.",
                &["class", "label"],
            )?,
            drops: counter_vec(
                r,
                "balancer_drops_total",
                "Packets dropped, by reason.",
                &["reason"],
            )?,
            details: counter_vec(
                r,
                "balancer_details_total",
                "What was noticed about packets that are counted as an outcome already.",
                &["label"],
            )?,
            vip_packets: counter_vec(
                r,
                "balancer_vip_packets_total",
                "Packets to a VIP.",
                &["vip"],
            )?,
            vip_bytes: counter_vec(
                r,
                "balancer_vip_bytes_total",
                "Bytes of the packets to a VIP, as they came in.",
                &["vip"],
            )?,
            worker_packets: counter_vec(
                r,
                "balancer_worker_packets_total",
                "Packets sent to a worker.",
                &["worker"],
            )?,
            worker_bytes: counter_vec(
                r,
                "balancer_worker_bytes_total",
                "Bytes of the packets sent to a worker, as they came in.",
                &["worker"],
            )?,
            function_packets: counter_vec(
                r,
                "balancer_function_packets_total",
                "Packets for the functions called most, at least; one that is overtaken goes, and may begin anew.",
                &["function"],
            )?,
        })
    }

    fn set_traffic(&self, traffic: &TrafficReport) {
        fill(&self.vip_packets, Some(&self.vip_bytes), &traffic.vips);
        fill(
            &self.worker_packets,
            Some(&self.worker_bytes),
            &traffic.workers,
        );
        let mut functions = traffic.functions.clone();
        functions.sort_by(|a, b| b.packets.cmp(&a.packets).then(a.name.cmp(&b.name)));
        functions.truncate(TOP_FUNCTIONS);
        fill(&self.function_packets, None, &functions);
    }

    fn set(&self, sums: &[(Counter, u64)]) {
        self.packets.reset();
        self.outcomes.reset();
        self.drops.reset();
        self.details.reset();
        for (counter, value) in sums {
            let (class, label) = (counter.class(), counter.label());
            match class {
                Class::Packets => self.packets.inc_by(*value),
                Class::Detail => self.details.with_label_values(&[label]).inc_by(*value),
                _ => {
                    let labels = [class.name(), label];
                    self.outcomes.with_label_values(&labels).inc_by(*value);
                }
            }
            if class == Class::Drop {
                self.drops.with_label_values(&[label]).inc_by(*value);
            }
        }
    }
}

fn fill(packets: &IntCounterVec, bytes: Option<&IntCounterVec>, rows: &[TrafficRow]) {
    packets.reset();
    if let Some(bytes) = bytes {
        bytes.reset();
    }
    for row in rows {
        let labels = [row.name.as_str()];
        packets.with_label_values(&labels).inc_by(row.packets);
        if let (Some(bytes), Some(sum)) = (bytes, row.bytes) {
            bytes.with_label_values(&labels).inc_by(sum);
        }
    }
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    registered(r, IntCounter::new(name, help)?)
}

fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    registered(r, IntGauge::new(name, help)?)
}

fn counter_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    registered(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauge_vec(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    registered(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_scrape_does_not_count_twice() {
        let metrics = Metrics::new().unwrap();
        for _ in 0..2 {
            metrics.program.set(&[
                (Counter::Packets, 3),
                (Counter::DropBadMagic, 2),
                (Counter::RouteWarm, 1),
            ]);
        }
        assert_eq!(metrics.program.packets.get(), 3);
        let drops = metrics.program.drops.with_label_values(&["bad_magic"]);
        assert_eq!(drops.get(), 2);
        let outcomes = &metrics.program.outcomes;
        assert_eq!(outcomes.with_label_values(&["drop", "bad_magic"]).get(), 2);
        assert_eq!(outcomes.with_label_values(&["route", "warm"]).get(), 1);
    }

    #[test]
    fn no_scrape_misses_the_mode_of_an_interface() {
        let metrics = Metrics::new().unwrap();
        let status = |mode: Option<&str>| InterfaceStatus {
            name: "eth0".to_owned(),
            ifindex: Some(2),
            mode: mode.map(str::to_owned),
        };
        metrics.set_interfaces(&[status(Some("native"))]);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    metrics.set_interfaces(&[status(Some("native"))]);
                }
            });
            let least = (0..2_000).map(|_| {
                let families = metrics.registry.gather();
                let modes = families.iter().find(|f| f.name() == "balancer_xdp_mode");
                modes.map_or(0, |family| family.get_metric().len())
            });
            let least = least.min();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(least, Some(2));
        });
        metrics.set_interfaces(&[status(None)]);
        let native = metrics.xdp_mode.with_label_values(&["eth0", "native"]);
        assert_eq!(native.get(), 0, "its program is gone");
    }

    #[test]
    fn only_the_functions_called_most_have_a_metric_and_what_went_away_has_none() {
        let row = |name: String, packets| TrafficRow {
            name,
            packets,
            bytes: Some(10 * packets),
        };
        let metrics = Metrics::new().unwrap();
        let mut traffic = TrafficReport {
            vips: vec![row("vip".to_owned(), 5)],
            workers: vec![row("w0".to_owned(), 3), row("w1".to_owned(), 2)],
            functions: (1..=30).map(|n| row(format!("f{n}"), n)).collect(),
        };
        metrics.program.set_traffic(&traffic);
        traffic.workers.truncate(1);
        metrics.program.set_traffic(&traffic);
        let mut text = Vec::new();
        let families = metrics.registry.gather();
        TextEncoder::new().encode(&families, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            "balancer_vip_packets_total{vip=\"vip\"} 5",
            "balancer_vip_bytes_total{vip=\"vip\"} 50",
            "balancer_worker_bytes_total{worker=\"w0\"} 30",
            "balancer_function_packets_total{function=\"f30\"} 30",
            "balancer_function_packets_total{function=\"f11\"} 11",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}");
        }
        assert!(!text.contains("\"w1\"") && !text.contains("\"f10\""));
    }
}
