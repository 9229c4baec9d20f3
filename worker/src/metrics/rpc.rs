//! What the RPC server counts.

use std::{sync::Arc, time::Duration};

use ebpf_common::wire::{HeaderError, Status};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Registry};

use super::{counter_in, vec_in};
use crate::{bill::Word, park::WakeReason};
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
    named: IntCounterVec,
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
            named: vec_in(
                registry,
                "worker_callers_named_total",
                "Requests that name who is to pay: believed, ignored as they come from no gateway of `[bill] gateways`, or garbled.",
                &["word"],
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

    pub(crate) fn named(&self, word: Word) {
        self.named.with_label_values(&[word.name()]).inc();
    }

    /// Requests so far that named who is to pay, by what became of that.
    #[must_use]
    pub fn callers_named(&self, word: Word) -> u64 {
        self.named.with_label_values(&[word.name()]).get()
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
