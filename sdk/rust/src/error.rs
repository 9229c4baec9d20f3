//! Why a client could not be made, and why a call failed.

use std::{io, net::SocketAddr, time::Duration};

use ebpf_common::{
    limits::MAX_MESSAGE,
    wire::{Fault, Status},
};

use crate::stream::StreamError;

/// Why [`crate::Client::connect`] failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No socket, or not at the address asked for.
    #[error(
        "cannot open a UDP socket at {address}: is the address on this host and the port free?"
    )]
    Bind {
        /// The local address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The VIP cannot be reached at all.
    #[error("cannot reach VIP {vip}: is there a route to it?")]
    Connect {
        /// The VIP.
        vip: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A client needs a tokio runtime for its receive task.
    #[error("connect was called outside a tokio runtime: call it from async code")]
    NoRuntime,
}

/// Why [`crate::Client::call`] failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The budget ran out.
    #[error("no reply within {budget:?} ({}, {attempts} attempts, {retransmits} retransmissions)",
        if *.acknowledged { "a worker had acknowledged it" } else { "never acknowledged" })]
    Timeout {
        /// The call's budget.
        budget: Duration,
        /// As [`crate::Response::attempts`].
        attempts: u32,
        /// As [`crate::Response::retransmits`].
        retransmits: u32,
        /// Whether a worker had taken the request, so that its handler may have run.
        acknowledged: bool,
    },
    /// Balancer or worker answered, but not with a reply.
    #[error("{}: {}", .status.name(), if message.is_empty() { status.summary() } else { message.as_str() })]
    Status {
        /// What happened.
        status: Status,
        /// In the answerer's words; empty from the balancer, whose answers carry no payload.
        message: String,
        /// When to try again, if the answer said so.
        retry_after: Option<Duration>,
        /// As [`crate::Response::attempts`].
        attempts: u32,
        /// Whether it comes from a handler that speaks HTTP.
        http: bool,
    },
    /// The payload does not fit a message.
    #[error(
        "the payload of {bytes} bytes is longer than the {MAX_MESSAGE} bytes a message may have"
    )]
    PayloadTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// [`crate::ClientConfig::max_in_flight`] is reached.
    #[error("{limit} requests are in flight already: wait for some, or raise max_in_flight")]
    TooManyInFlight {
        /// The limit.
        limit: usize,
    },
    /// The reply goes on over TCP, and cannot be had there; the handler may have run.
    #[error("cannot have the stream{}", .address.map_or_else(String::new, |it| format!(" from {it}")))]
    Stream {
        /// Where the worker said it goes on.
        address: Option<SocketAddr>,
        /// What came in the way.
        source: StreamError,
    },
    /// The socket failed.
    #[error("cannot send to the VIP")]
    Io {
        /// What the kernel said.
        source: io::Error,
    },
}

impl CallError {
    /// Whose fault it was.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Status { status, .. } => status.fault(),
            Self::PayloadTooLarge { .. } | Self::TooManyInFlight { .. } => Fault::Caller,
            // Acknowledged: a handler was at work when the caller's patience ended.
            Self::Timeout {
                acknowledged: true, ..
            } => Fault::Caller,
            Self::Timeout { .. } | Self::Io { .. } | Self::Stream { .. } => Fault::Platform,
        }
    }

    /// Whether the same call may succeed later without its handler having run already.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Status { status, .. } => status.is_retryable(),
            Self::TooManyInFlight { .. } | Self::Io { .. } => true,
            Self::PayloadTooLarge { .. } | Self::Timeout { .. } | Self::Stream { .. } => false,
        }
    }

    /// The status that came, or the one that says the same.
    #[must_use]
    pub const fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Timeout {
                acknowledged: true, ..
            } => Some(Status::BudgetExceeded),
            Self::PayloadTooLarge { .. } => Some(Status::BadPayload),
            Self::Stream { .. } => Some(Status::OutcomeUnknown),
            Self::Timeout { .. } | Self::TooManyInFlight { .. } | Self::Io { .. } => None,
        }
    }
}
