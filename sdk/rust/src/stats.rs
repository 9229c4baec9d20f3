//! What a client has counted since it was made.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// Counters of a [`crate::Client`] at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct ClientStats { $($(#[doc = $help])+ pub $name: u64,)+ }

        /// The live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)+ }

        impl Counters {
            pub(crate) fn read(&self) -> ClientStats {
                ClientStats { $($name: self.$name.0.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

stats! {
    /// Calls and pings begun.
    requests,
    /// Calls and pings that got a reply with status Ok.
    answered,
    /// Calls and pings that ended with an error status.
    failed,
    /// Calls and pings whose budget ran out.
    timed_out,
    /// Packets sent, retransmissions included.
    packets_sent,
    /// Packets sent again because no answer came in time.
    packets_retransmitted,
    /// Packets received from the VIP.
    packets_received,
    /// RETRYs received: packets that the balancer did not pass on before they showed an address token.
    retries,
    /// Calls given up by their callers, of which the worker was told.
    cancels,
    /// Requests begun anew after a retryable error or a lost worker.
    attempts_repeated,
    /// Packets received that are no answer to anything in flight: late duplicates, mostly.
    packets_unknown,
    /// Packets received that are no valid answer.
    packets_malformed,
}

/// A counter that needs no order with anything else.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
