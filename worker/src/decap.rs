//! The worker's own XDP program, which takes the encapsulation off what balancers send: attached while the worker serves,
//! and counted among its metrics.

use balancer_userspace::{decap::DecapConfig, maps};
use ebpf_common::maps::Counter;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::error::RunError;

/// The program on the interface. Dropping it takes it off.
#[derive(Debug)]
pub(crate) struct Decap {
    program: maps::Decap,
    packets: IntCounterVec,
}

impl Decap {
    /// Attaches the program, and registers what is told of it.
    ///
    /// # Errors
    /// [`RunError::Decap`] says what stands in the way; nothing is attached then.
    pub(crate) fn start(config: &DecapConfig, registry: &Registry) -> Result<Self, RunError> {
        let attached = IntGaugeVec::new(
            Opts::new(
                "worker_xdp_mode",
                "1 for the interface and the mode that the worker's XDP program runs in.",
            ),
            &["interface", "mode"],
        )?;
        registry.register(Box::new(attached.clone()))?;
        let packets = IntCounterVec::new(
            Opts::new(
                "worker_decap_packets_total",
                "Packets that the worker's XDP program has seen, by what became of them.",
            ),
            &["class", "label"],
        )?;
        registry.register(Box::new(packets.clone()))?;
        let program = maps::Decap::start(config)?;
        let attachment = program.attachment();
        attached
            .with_label_values(&[&attachment.interface, attachment.mode.name()])
            .set(1);
        let decap = Self { program, packets };
        decap.show();
        Ok(decap)
    }

    /// Brings the metrics to what the kernel has counted.
    pub(crate) fn show(&self) {
        match self.program.counted() {
            Ok(counted) => counted
                .into_iter()
                .for_each(|(counter, value)| self.raise(counter, value)),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the counters of the worker's XDP program are not read"
                );
            }
        }
    }

    fn raise(&self, counter: Counter, value: u64) {
        let class = counter.class().name();
        let shown: IntCounter = self.packets.with_label_values(&[class, counter.label()]);
        shown.inc_by(value.saturating_sub(shown.get()));
    }
}
