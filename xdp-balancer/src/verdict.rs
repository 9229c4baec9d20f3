//! What became of a packet, and which counter says so.

use ebpf_common::{maps::Counter, wire::Status};

use crate::Tables;

/// Milliseconds after which a client that was told "no worker" may try again: two heartbeats of a worker,
/// in which a replacement can announce itself.
pub const RETRY_AFTER_MS: u32 = 40;
/// The longest time that a client is told to wait.
pub const RETRY_AFTER_MAX_MS: u32 = 60_000;

/// What the driver is to do with the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Give it to the kernel's own stack.
    Pass,
    /// Drop it.
    Drop(DropReason),
    /// Drop it, for it has done its work.
    Consumed,
    /// Send it out of the interface it came in by.
    Tx,
    /// Send it out of another interface, which [`crate::Tables::redirect`] has already chosen.
    Redirect {
        /// The interface.
        ifindex: u32,
    },
}

/// What became of a packet: each value is one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Not for us.
    Passed(NotOurs),
    /// For us, and dropped.
    Dropped(DropReason),
    /// Turned into an ERROR packet to its sender.
    Refused(Refusal),
    /// Turned into another packet to its sender.
    Answered(Answer),
    /// Taken in by the program itself, and gone.
    Consumed,
    /// Sent to a worker.
    Routed {
        /// The rule that chose the worker.
        rule: Rule,
        /// The interface to redirect to; `None` is the one it came in by.
        redirect: Option<u32>,
    },
}

impl Outcome {
    /// What the driver is to do.
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Passed(_) => Verdict::Pass,
            Self::Dropped(reason) => Verdict::Drop(reason),
            // The driver is told to drop it; no packet was lost.
            Self::Consumed => Verdict::Consumed,
            Self::Refused(_) | Self::Answered(_) | Self::Routed { redirect: None, .. } => {
                Verdict::Tx
            }
            Self::Routed {
                redirect: Some(ifindex),
                ..
            } => Verdict::Redirect { ifindex },
        }
    }

    /// The one counter of an outcome's class that it is counted under.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> Counter {
        match self {
            Self::Passed(why) => why.counter(),
            Self::Dropped(reason) => reason.counter(),
            Self::Refused(refusal) => refusal.counter(),
            Self::Answered(answer) => answer.counter(),
            Self::Consumed => Counter::ConsumeLoad,
            Self::Routed { rule, .. } => rule.counter(),
        }
    }
}

/// Why a packet that was addressed to a VIP goes no further.
///
/// VERIFIER: a word before the reason, so that where it shares its place on the stack with a pointer (in a `Result`), both
/// are read by words: "invalid size of register fill" (Linux 6.18, rustc 1.96).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Stop {
    /// Nobody is told.
    Drop(DropReason),
    /// Its sender is told.
    Refuse(Refusal),
    /// Its sender is to prove its address by an address token, and send again.
    Retry,
}

/// Declares an enum whose variants are counters of one class.
macro_rules! counted {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident => $counter:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The counter of packets with this outcome.
            #[inline(always)]
            #[must_use]
            pub const fn counter(self) -> Counter {
                match self { $(Self::$variant => Counter::$counter,)+ }
            }
        }
    };
}

counted! {
    /// Why a packet is left to the kernel.
    NotOurs {
        /// Another protocol than IPv4 or IPv6.
        NotIp => PassNotIp,
        /// No VIP.
        NotVip => PassNotVip,
        /// The kernel is to find the next hop's MAC address.
        NoNeighbour => PassNoNeighbour,
        /// On a worker: not encapsulated, or not for it.
        NotEncapsulated => PassNotEncapsulated,
        /// On a worker: its encapsulation is off.
        Decapsulated => PassDecapsulated,
    }
}

counted! {
    /// The routing rule that placed a request; the order is the order in which they are tried.
    Rule {
        /// A valid route cookie names the worker.
        Cookie => RouteCookie,
        /// The session's entry names the worker.
        Session => RouteSession,
        /// The worker owns the slot.
        Shard => RouteShard,
        /// The less loaded of two workers with a warm sandbox.
        Warm => RouteWarm,
        /// The function's home in the Maglev table.
        Home => RouteHome,
        /// The entry of the message's first fragment names the worker.
        Fragment => RouteFragment,
        /// The flow's entry names the worker.
        Flow => RouteFlow,
        /// A new flow, by the Maglev table.
        Maglev => RouteMaglev,
        /// The QUIC connection id names the worker.
        Quic => RouteQuic,
        /// The ICMP error is about a packet of this worker.
        Icmp => RouteIcmp,
    }
}

impl Rule {
    /// The same rule, by one way through the verifier whichever it is (see [`Tables::opaque`]).
    #[inline(always)]
    pub(crate) fn one_way<T: Tables>(self, tables: &T) -> Self {
        let [code] = tables.opaque([self as u32]);
        match code {
            0 => Self::Cookie,
            1 => Self::Session,
            2 => Self::Shard,
            3 => Self::Warm,
            4 => Self::Home,
            5 => Self::Fragment,
            6 => Self::Flow,
            7 => Self::Maglev,
            8 => Self::Quic,
            _ => Self::Icmp,
        }
    }
}

counted! {
    /// Why a packet is dropped without an answer.
    DropReason {
        /// Too short for an Ethernet header.
        TruncatedEthernet => DropTruncatedEthernet,
        /// Too short for its IP header.
        TruncatedIp => DropTruncatedIp,
        /// Version, header length or total length contradict the frame.
        BadIp => DropBadIp,
        /// An IP fragment without all headers.
        IpFragment => DropIpFragment,
        /// Too short for a UDP header.
        TruncatedUdp => DropTruncatedUdp,
        /// The UDP length contradicts the IPv4 length.
        BadUdpLength => DropBadUdpLength,
        /// Too short for an RPC header.
        TruncatedRpc => DropTruncatedRpc,
        /// Not our protocol.
        BadMagic => DropBadMagic,
        /// A kind that this version does not have.
        UnknownKind => DropUnknownKind,
        /// A kind that a VIP does not take.
        UnexpectedKind => DropUnexpectedKind,
        /// Would be answered, but nothing can be sent to its source.
        BadSource => DropBadSource,
        /// A table is missing or shorter than it must be.
        NotConfigured => DropNotConfigured,
        /// The worker's interface is not in `PORTS`.
        NoPort => DropNoPort,
        /// The frame could not be rewritten.
        NotRewritten => DropNotRewritten,
        /// More IPv6 extension headers than are read.
        TooManyHeaders => DropTooManyHeaders,
        /// Its hop limit is used up.
        HopLimit => DropHopLimit,
        /// An ICMP error too short for, or not about, a packet of the VIP.
        BadIcmp => DropBadIcmp,
        /// An ICMP error about a packet of which no worker is known.
        IcmpUnplaced => DropIcmpUnplaced,
        /// The source is in a block list.
        Blocked => DropBlocked,
        /// The source sends more than its rate.
        SourceRate => DropSourceRate,
        /// Answers have used up their rate.
        AnswerRate => DropAnswerRate,
        /// A LOAD packet that was not made with our key.
        LoadForged => DropLoadForged,
        /// A LOAD packet that a later one has overtaken.
        LoadStale => DropLoadStale,
        /// A LOAD packet of a worker that is not known.
        LoadUnknown => DropLoadUnknown,
        /// No worker takes new work.
        NoWorker => DropNoWorker,
        /// The worker has too much in flight.
        Overloaded => DropOverloaded,
        /// The function is called more than its rate.
        FunctionRate => DropFunctionRate,
        /// No such function.
        UnknownFunction => DropUnknownFunction,
        /// Not a packet of pktgen.
        NotPktgen => DropNotPktgen,
        /// The kernel's FIB knows no way to the worker.
        NoRoute => DropNoRoute,
        /// Too long for the way to its worker.
        TooBig => DropTooBig,
        /// No address to encapsulate with.
        NoTunnelAddress => DropNoTunnelAddress,
        /// On a worker: encapsulated by somebody else.
        DecapSource => DropDecapSource,
        /// On a worker: encapsulated twice.
        DecapNested => DropDecapNested,
        /// On a worker: the inner packet contradicts its frame.
        DecapBad => DropDecapBad,
    }
}

counted! {
    /// The packets that are answered with other packets than ERROR.
    Answer {
        /// RETRY: prove your address.
        Retry => AnswerRetry,
        /// ICMP: too long for the way to its worker.
        TooBig => AnswerTooBig,
    }
}

counted! {
    /// Why a request is answered with an ERROR.
    Refusal {
        /// A version that we do not speak.
        Version => ErrorVersion,
        /// A flag that version 1 does not have.
        Flags => ErrorFlags,
        /// The header length is not 64.
        HeaderLen => ErrorHeaderLen,
        /// Fragment number or count out of range.
        Fragment => ErrorFragment,
        /// Slot out of range.
        Slot => ErrorSlot,
        /// The payload length contradicts the datagram.
        Length => ErrorLength,
        /// No such function.
        UnknownFunction => ErrorUnknownFunction,
        /// No worker takes new work.
        NoWorker => ErrorNoWorker,
        /// No live worker owns the slot.
        NoShardOwner => ErrorNoShardOwner,
        /// The worker has too much in flight.
        Overloaded => ErrorOverloaded,
        /// The function is called more than its rate.
        FunctionRate => ErrorFunctionRate,
    }
}

impl Refusal {
    /// What a packet that carries no RPC header, and so cannot be answered with one, is dropped for.
    #[inline(always)]
    #[must_use]
    pub const fn silent(self) -> DropReason {
        match self {
            Self::Overloaded => DropReason::Overloaded,
            Self::FunctionRate => DropReason::FunctionRate,
            Self::UnknownFunction => DropReason::UnknownFunction,
            _ => DropReason::NoWorker,
        }
    }

    /// The status in the ERROR packet.
    #[inline(always)]
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Version => Status::UnsupportedVersion,
            Self::Flags | Self::HeaderLen | Self::Fragment | Self::Slot | Self::Length => {
                Status::Malformed
            }
            Self::UnknownFunction => Status::UnknownFunction,
            Self::NoWorker => Status::NoWorker,
            Self::NoShardOwner => Status::NoShardOwner,
            Self::Overloaded => Status::Overloaded,
            Self::FunctionRate => Status::RateLimited,
        }
    }

    /// Milliseconds to wait before trying again where nothing better is known; 0 where trying again is of no use.
    #[inline(always)]
    #[must_use]
    pub const fn retry_after_ms(self) -> u32 {
        match self {
            Self::NoWorker | Self::NoShardOwner | Self::Overloaded | Self::FunctionRate => {
                RETRY_AFTER_MS
            }
            _ => 0,
        }
    }
}
