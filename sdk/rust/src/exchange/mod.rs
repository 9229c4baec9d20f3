//! The life of one request as a state machine without I/O: [`Exchange::on_packet`] and
//! [`Exchange::on_timer`] take in what happens, [`Exchange::next_packet`] gives what to send.
//!
//! ```text
//!            ┌─ RETRY ─▶ Sending, with the address token in it
//!            ├─ retryable ERROR ─▶ Pausing ─┐
//!            │                              ▼
//!  begin ─▶ Sending ─ continue(some) ─▶ Uploading ─ continue(all) ─▶ Waiting ─▶ Receiving ─▶ done
//!            └────────────── reply of one packet, at any time ─────────────────────────────▶ done
//! ```
//! The client's half of the wire rules is decided here and nowhere else.

mod receive;
mod send;
mod timer;

use std::time::{Duration, Instant};

use bytes::Bytes;
use ebpf_common::{
    ids::FunctionId,
    wire::{Status, flags},
};

use crate::{
    call::Call,
    fragment::{Held, Reassembly, count_of},
};

pub(crate) use send::MAX_PACKET;

/// Flags of a reply that say how its payload is to be read.
pub(crate) const SHOWN: u16 = flags::HTTP | flags::STREAM;
/// Timers without an answer after which a worker counts as gone.
const GONE_AFTER: u32 = 4;
/// New tokens that make a request send again at once: one for a first request, one more for a rotation of keys or of
/// this machine's address. Beyond that the timer decides, lest two machines that disagree send in a circle.
const RETRIES_AT_ONCE: u32 = 3;

/// What a request asks for; fixed while it lives.
#[derive(Debug)]
pub(crate) struct Request {
    /// In every packet of the request and of its answers.
    pub(crate) id: u64,
    /// Whether it is a PING.
    pub(crate) ping: bool,
    /// What is called.
    pub(crate) call: Call,
    /// What of it may be a stream: in the flags of every packet.
    pub(crate) stream_flags: u16,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Wait before the first retransmission.
    pub(crate) first: Duration,
    /// Most wait between two.
    pub(crate) max: Duration,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No worker has answered yet.
    Sending,
    /// A worker holds some fragments.
    Uploading,
    /// A worker holds them all.
    Waiting,
    /// Some fragments of the reply are here.
    Receiving,
    /// An answer said to try again later.
    Pausing,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum End {
    /// A worker or the balancer had the last word.
    Answered {
        status: Status,
        payload: Bytes,
        /// Which of [`SHOWN`] the answer had.
        flags: u16,
        retry_after: Option<Duration>,
    },
    /// The budget ran out.
    TimedOut,
}

/// One request from its first packet to its end.
#[derive(Debug)]
pub(crate) struct Exchange {
    request: Request,
    /// Fragments of the request.
    count: u16,
    timing: Timing,
    begun: Instant,
    deadline: Instant,
    /// When [`Exchange::on_timer`] is due.
    timer: Instant,
    /// Timers in a row that doubled the wait.
    step: u32,
    /// Timers in a row without any packet from the peer.
    unanswered: u32,
    phase: Phase,
    /// Sent in every packet: the session's, later that of the worker that answered.
    cookie: Option<u64>,
    /// Sent in every packet: the address token of an earlier RETRY.
    token: Option<u64>,
    /// Tokens taken from RETRYs.
    retries: u32,
    /// Fragments of the request that the worker is known to hold.
    held: Held,
    /// Fragments of the request ever sent; the next time is a retransmission.
    sent: Held,
    /// Fragments sent since this attempt began.
    sent_now: Held,
    /// Fragments to send next.
    outbox: Held,
    /// Whether to send a RESUME next.
    ask: bool,
    /// Whether a `continue` may make us send: only one that we asked for, so that a flood of them
    /// cannot make us flood.
    expects_progress: bool,
    reply: Option<Reply>,
    /// Since when a worker that is not ours says that it has nothing of the request.
    doubted: Option<Instant>,
    acknowledged: bool,
    attempts: u32,
    retransmits: u32,
    over: bool,
    /// Set when `over` is, until somebody takes it.
    end: Option<End>,
}

/// A reply of several fragments, as far as it is here.
#[derive(Debug)]
struct Reply {
    status: Status,
    cookie: Option<u64>,
    /// As in [`End::Answered`].
    flags: u16,
    parts: Reassembly,
}

impl Exchange {
    /// Begins a request; [`Exchange::next_packet`] has its first packet.
    pub(crate) fn begin(
        request: Request,
        cookie: Option<u64>,
        timing: Timing,
        now: Instant,
    ) -> Self {
        let count = count_of(request.call.payload.len());
        let deadline = now + request.call.budget;
        Self {
            request,
            count,
            timing,
            begun: now,
            deadline,
            timer: (now + timing.first).min(deadline),
            step: 0,
            unanswered: 0,
            phase: Phase::Sending,
            cookie,
            token: None,
            retries: 0,
            held: Held::NONE,
            sent: Held::NONE,
            sent_now: Held::NONE,
            outbox: Held::one(0),
            ask: false,
            expects_progress: true,
            reply: None,
            doubted: None,
            acknowledged: false,
            attempts: 1,
            retransmits: 0,
            over: false,
            end: None,
        }
    }

    /// Shows `token`, which an earlier request was told.
    pub(crate) const fn with_token(mut self, token: Option<u64>) -> Self {
        self.token = token;
        self
    }

    /// When [`Exchange::on_timer`] is due.
    pub(crate) const fn timer(&self) -> Instant {
        self.timer
    }

    /// How it ended, once it has.
    pub(crate) const fn take_end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// Whether it has ended.
    pub(crate) const fn is_over(&self) -> bool {
        self.over
    }

    /// The cookie to remember for the session: that of the worker to go on with, if there is one.
    pub(crate) const fn cookie(&self) -> Option<u64> {
        self.cookie
    }

    /// As [`crate::Response::attempts`].
    pub(crate) const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// As [`crate::Response::retransmits`].
    pub(crate) const fn retransmits(&self) -> u32 {
        self.retransmits
    }

    /// How often it had to prove its address.
    pub(crate) const fn retries(&self) -> u32 {
        self.retries
    }

    /// Whether a worker has acknowledged the request.
    pub(crate) const fn acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// What is called.
    pub(crate) const fn call(&self) -> &Call {
        &self.request.call
    }

    /// How long it has lived.
    pub(crate) fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    const fn function(&self) -> FunctionId {
        self.request.call.function
    }

    /// Whether a worker may have everything it needs to run the handler.
    fn may_have_run(&self) -> bool {
        self.sent_now.contains(Held::all(self.count))
    }

    fn finish(&mut self, status: Status, payload: Bytes, retry_after: Option<Duration>) {
        self.end_with(End::Answered {
            status,
            payload,
            flags: 0,
            retry_after,
        });
    }

    /// As [`Self::finish`], of a reply.
    fn replied(&mut self, status: Status, payload: Bytes, flags: u16) {
        self.end_with(End::Answered {
            status,
            payload,
            flags,
            retry_after: None,
        });
    }

    fn end_with(&mut self, end: End) {
        self.outbox = Held::NONE;
        self.ask = false;
        self.over = true;
        self.end = Some(end);
    }
}

#[cfg(test)]
mod tests;
