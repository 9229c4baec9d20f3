//! `COUNTERS`: what became of each packet.
//!
//! Each packet adds one to [`Counter::Packets`] and one to exactly one counter of the classes pass,
//! route, drop or error; the two sums are equal at any moment when no packet is in the program.
//! Counters of class detail say more about a packet that is counted there already.

/// What a counter's value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// All packets seen.
    Packets,
    /// Outcome: given to the kernel's own stack.
    Pass,
    /// Outcome: sent to a worker; the label is the rule.
    Route,
    /// Outcome: dropped; the label is the reason.
    Drop,
    /// Outcome: answered with an ERROR packet; the label is the reason.
    Error,
    /// Not an outcome: something noticed on the way.
    Detail,
}

impl Class {
    /// Its name in CLI, JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Pass => "pass",
            Self::Route => "route",
            Self::Drop => "drop",
            Self::Error => "error",
            Self::Detail => "detail",
        }
    }

    /// Whether a packet is counted under exactly one counter of such classes.
    #[must_use]
    pub const fn is_outcome(self) -> bool {
        matches!(self, Self::Pass | Self::Route | Self::Drop | Self::Error)
    }
}

/// Declares the counters once; the doc comment is the metric's help text.
macro_rules! counters {
    ($($variant:ident, $class:ident, $label:literal, $help:literal;)+) => {
        /// Index into the `COUNTERS` map.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Counter { $(#[doc = $help] $variant,)+ }

        impl Counter {
            /// Every counter, in the order of its index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// Length of the `COUNTERS` map.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// What kind of counter it is.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)+ }
            }

            /// The rule or reason, within its class, as CLI, JSON and metrics name it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// What it counts, in one sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }
        }
    };
}

counters! {
    Packets, Packets, "packets", "Packets that the program has seen.";

    PassNotIpv4, Pass, "not_ipv4", "Not IPv4: passed to the kernel.";
    PassNotVip, Pass, "not_vip", "Not for a VIP: passed to the kernel.";

    RouteCookie, Route, "cookie", "Sent to the worker that a valid route cookie names.";
    RouteSession, Route, "session", "Sent to the worker of the session's entry.";
    RouteShard, Route, "shard", "Sent to the owner of the slot.";
    RouteWarm, Route, "warm", "Sent to the less loaded of two warm workers.";
    RouteHome, Route, "home", "Sent to the function's home in the Maglev table.";

    DropTruncatedEthernet, Drop, "truncated_ethernet", "A frame too short for an Ethernet header.";
    DropTruncatedIp, Drop, "truncated_ip", "An IPv4 frame too short for its IPv4 header.";
    DropBadIp, Drop, "bad_ip", "For a VIP: IPv4 version, header length or total length contradict the frame.";
    DropIpFragment, Drop, "ip_fragment", "For a VIP: an IP fragment, whose RPC header cannot be trusted.";
    DropTruncatedUdp, Drop, "truncated_udp", "For a VIP: too short for a UDP header.";
    DropBadUdpLength, Drop, "bad_udp_length", "For a VIP: the UDP length contradicts the IPv4 length.";
    DropTruncatedRpc, Drop, "truncated_rpc", "For a VIP: the datagram is too short for an RPC header.";
    DropBadMagic, Drop, "bad_magic", "For a VIP: not our protocol.";
    DropUnknownKind, Drop, "unknown_kind", "For a VIP: a kind that this version does not have.";
    DropUnexpectedKind, Drop, "unexpected_kind", "For a VIP: an answer or a load report, which a VIP does not take.";
    DropBadSource, Drop, "bad_source", "For a VIP: would be answered, but its source is an address or a port that no answer can be sent to.";
    DropNotConfigured, Drop, "not_configured", "A table that the program needs is shorter than it must be.";
    DropNoPort, Drop, "no_port", "The worker's interface is not in the PORTS map.";
    DropNotRewritten, Drop, "not_rewritten", "The frame could not be rewritten for its way; no driver is known to cause it.";

    ErrorVersion, Error, "version", "Answered: a version that we do not speak.";
    ErrorFlags, Error, "flags", "Answered: a flag that version 1 does not have.";
    ErrorHeaderLen, Error, "header_len", "Answered: the header length is not 64.";
    ErrorFragment, Error, "fragment", "Answered: fragment number out of range.";
    ErrorSlot, Error, "slot", "Answered: slot out of range.";
    ErrorLength, Error, "length", "Answered: the payload length contradicts the datagram.";
    ErrorUnknownFunction, Error, "unknown_function", "Answered: no such function is deployed.";
    ErrorNoWorker, Error, "no_worker", "Answered: no worker takes new work.";
    ErrorNoShardOwner, Error, "no_shard_owner", "Answered: no live worker owns the slot.";

    CookieForged, Detail, "cookie_forged", "A route cookie that was not made with our key.";
    CookieStale, Detail, "cookie_stale", "A route cookie of an epoch that is over.";
    CookieWorkerGone, Detail, "cookie_worker_gone", "A valid route cookie whose worker takes no work.";
    SessionCreated, Detail, "session_created", "A session placed on a worker for the first time.";
    SessionMoved, Detail, "session_moved", "A session placed anew because its worker takes no work.";
    SessionNotStored, Detail, "session_not_stored", "A session's entry could not be written.";
    WarmFull, Detail, "warm_full", "Both warm workers chosen take no new work or are at capacity.";
    HomeProbed, Detail, "home_probed", "The first Maglev entry's worker takes no new work; a later entry did.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_position_in_all() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
    }

    #[test]
    fn labels_are_unique_within_a_class() {
        for a in Counter::ALL {
            for b in Counter::ALL {
                assert!(
                    a == b || a.class() != b.class() || a.label() != b.label(),
                    "{a:?} {b:?}"
                );
            }
        }
    }
}
