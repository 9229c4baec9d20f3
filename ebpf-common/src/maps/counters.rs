//! `COUNTERS`: what became of each packet.
//!
//! Each packet adds one to [`Counter::Packets`] and one to exactly one counter of the classes
//! pass, route, drop, error, answer or consume; the two sums are equal at any moment when no packet is in the program.
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
    /// Outcome: answered with another packet; the label is which.
    Answer,
    /// Outcome: taken in by the program itself; the label is what it was.
    Consume,
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
            Self::Answer => "answer",
            Self::Consume => "consume",
            Self::Detail => "detail",
        }
    }

    /// Whether a packet is counted under exactly one counter of such classes.
    #[must_use]
    pub const fn is_outcome(self) -> bool {
        !matches!(self, Self::Packets | Self::Detail)
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

    PassNotIp, Pass, "not_ip", "Neither IPv4 nor IPv6: passed to the kernel.";
    PassNotVip, Pass, "not_vip", "Not for a VIP: passed to the kernel.";

    PassNoNeighbour, Pass, "no_neighbour", "The kernel's FIB knows no MAC address of the next hop yet: passed to the kernel, which asks for it.";
    PassNotEncapsulated, Pass, "not_encapsulated", "On a worker: not encapsulated, or not for this host: passed to the kernel.";
    PassDecapsulated, Pass, "decapsulated", "On a worker: the encapsulation taken off, and passed to the kernel.";

    RouteCookie, Route, "cookie", "Sent to the worker that a valid route cookie names.";
    RouteSession, Route, "session", "Sent to the worker of the session's entry.";
    RouteShard, Route, "shard", "Sent to the owner of the slot.";
    RouteWarm, Route, "warm", "Sent to the less loaded of two warm workers.";
    RouteHome, Route, "home", "Sent to the function's home in the Maglev table.";

    RouteFragment, Route, "fragment", "A later fragment, sent after the first one of its message.";
    RouteFlow, Route, "flow", "Sent to the worker of the flow's entry.";
    RouteMaglev, Route, "maglev", "A flow without an entry, sent where its pool's Maglev table says.";
    RouteQuic, Route, "quic", "Sent to the worker that the QUIC connection id names.";
    RouteIcmp, Route, "icmp", "An ICMP error, sent to the worker whose packet it is about.";

    DropTruncatedEthernet, Drop, "truncated_ethernet", "A frame too short for an Ethernet header and its VLAN tags.";
    DropTruncatedIp, Drop, "truncated_ip", "A frame too short for its IP header.";
    DropBadIp, Drop, "bad_ip", "For a VIP: IP version, header length or total length contradict the frame.";
    DropIpFragment, Drop, "ip_fragment", "For a VIP: an IP fragment that does not hold all headers.";
    DropTruncatedUdp, Drop, "truncated_udp", "For a VIP: too short for its UDP or TCP header.";
    DropBadUdpLength, Drop, "bad_udp_length", "For a VIP: the UDP length contradicts the IP length.";
    DropTruncatedRpc, Drop, "truncated_rpc", "For a VIP: the datagram is too short for an RPC header.";
    DropBadMagic, Drop, "bad_magic", "For a VIP: not our protocol.";
    DropUnknownKind, Drop, "unknown_kind", "For a VIP: a kind that this version does not have.";
    DropUnexpectedKind, Drop, "unexpected_kind", "For a VIP: an answer or a load report, which a VIP does not take.";
    DropBadSource, Drop, "bad_source", "For a VIP: would be answered, but its source is an address or a port that no answer can be sent to.";
    DropTooManyHeaders, Drop, "too_many_headers", "For a VIP: more IPv6 extension headers than are read.";
    DropHopLimit, Drop, "hop_limit", "For a VIP: its hop limit is used up.";
    DropBadIcmp, Drop, "bad_icmp", "For a VIP: an ICMP error too short for, or not about, a packet of the VIP.";
    DropIcmpUnplaced, Drop, "icmp_unplaced", "For a VIP: an ICMP error about a packet of which no worker is known.";
    DropBlocked, Drop, "blocked", "For a VIP: the source is in a block list.";
    DropSourceRate, Drop, "source_rate", "For a VIP: the source sends more than its rate.";
    DropAnswerRate, Drop, "answer_rate", "For a VIP: would be answered, but answers have used up their rate.";
    DropLoadForged, Drop, "load_forged", "A LOAD packet that was not made with our key, or of an epoch that is over.";
    DropLoadStale, Drop, "load_stale", "A LOAD packet that a later one has overtaken, or a repeated one.";
    DropLoadUnknown, Drop, "load_unknown", "A LOAD packet of a worker that is not known.";
    DropNoWorker, Drop, "no_worker", "For a VIP without RPC headers: no worker takes new work.";
    DropOverloaded, Drop, "overloaded", "For a VIP without RPC headers: the worker that it belongs to has too much in flight.";
    DropFunctionRate, Drop, "function_rate", "For a VIP of kind pktgen: the function is called more than its rate.";
    DropUnknownFunction, Drop, "unknown_function", "For a VIP of kind pktgen: no such function is deployed.";
    DropNotPktgen, Drop, "not_pktgen", "For a VIP of kind pktgen: not a packet of pktgen.";
    DropNoRoute, Drop, "no_route", "The kernel's FIB knows no way to the worker.";
    DropTooBig, Drop, "too_big", "Too long for the way to its worker, and not to be answered.";
    DropNoTunnelAddress, Drop, "no_tunnel_address", "To be encapsulated, but the worker or we have no address of that family.";
    DropDecapSource, Drop, "decap_source", "On a worker: encapsulated by somebody who is no balancer of ours.";
    DropDecapNested, Drop, "decap_nested", "On a worker: encapsulated twice.";
    DropDecapBad, Drop, "decap_bad", "On a worker: the inner packet contradicts its frame.";
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

    ErrorOverloaded, Error, "overloaded", "Answered: the worker that it belongs to has too much in flight.";
    ErrorFunctionRate, Error, "function_rate", "Answered: the function is called more than its rate.";

    AnswerRetry, Answer, "retry", "Answered with RETRY: the source is to prove its address.";
    AnswerTooBig, Answer, "packet_too_big", "Answered with ICMP: too long for the way to its worker.";

    ConsumeLoad, Consume, "load", "A LOAD packet, taken in.";

    CookieForged, Detail, "cookie_forged", "A route cookie that was not made with our key.";
    CookieStale, Detail, "cookie_stale", "A route cookie of an epoch that is over.";
    CookieWorkerGone, Detail, "cookie_worker_gone", "A valid route cookie whose worker takes no work.";
    SessionCreated, Detail, "session_created", "A session placed on a worker for the first time.";
    SessionMoved, Detail, "session_moved", "A session placed anew because its worker takes no work.";
    SessionEvicted, Detail, "session_evicted", "A session's entry given to another session: the table's row is full.";
    FlowCreated, Detail, "flow_created", "A flow or a message of several fragments placed for the first time.";
    FlowEvicted, Detail, "flow_evicted", "A flow's entry given to another flow: the table's row is full.";
    FlowNotKept, Detail, "flow_not_kept", "A new flow placed without an entry: its row is full, and evictions have used up their rate.";
    FlowMoved, Detail, "flow_moved", "A flow placed anew because its worker takes no work.";
    FragmentUnplaced, Detail, "fragment_unplaced", "A later fragment without an entry of its first, placed by the rules.";
    QuicUnknownId, Detail, "quic_unknown_id", "A QUIC connection id that names no worker, routed by flow.";
    HomeBounded, Detail, "home_bounded", "The first Maglev entry's worker has more than its share; a later entry was taken.";
    TokenForged, Detail, "token_forged", "An address token that was not made with our key for this source.";
    TokenStale, Detail, "token_stale", "An address token of an epoch that is over.";
    SchemaMissed, Detail, "schema_missed", "The key that the function's schema names is not in this packet.";
    WarmFull, Detail, "warm_full", "Both warm workers chosen take no new work or are at capacity.";
    HomeProbed, Detail, "home_probed", "The first Maglev entry's worker takes no new work; a later entry did.";
    TraceLost, Detail, "trace_lost", "An event for a tracer that found the ring buffer full.";
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
