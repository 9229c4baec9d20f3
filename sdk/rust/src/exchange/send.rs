//! What an exchange sends.

use std::time::{Duration, Instant};

use ebpf_common::{
    ids::SlotId,
    limits::MAX_FRAGMENT_PAYLOAD,
    wire::{HEADER_LEN, Kind, RpcHeader, flags},
};

use super::{Exchange, Phase};
use crate::fragment::{Held, part};

/// Bytes of the longest packet.
pub(crate) const MAX_PACKET: usize = HEADER_LEN + MAX_FRAGMENT_PAYLOAD;

/// A packet written into a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Its length.
    pub(crate) bytes: usize,
    /// Whether it had been sent before.
    pub(crate) again: bool,
    /// To undo, should the socket not take it.
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Resume,
    Fragment(u16),
}

impl Exchange {
    /// Writes the next packet to send into `buffer`; `None` when there is nothing to send.
    pub(crate) fn next_packet(
        &mut self,
        now: Instant,
        buffer: &mut [u8; MAX_PACKET],
    ) -> Option<Written> {
        if self.ask {
            self.ask = false;
            let reply_held = self
                .reply
                .as_ref()
                .map_or(Held::NONE, |reply| reply.parts.held());
            let header = RpcHeader {
                flags: self.flags() | flags::RESUME | flags::FIRST | flags::LAST,
                ..self.header(now)
            };
            let bytes = write(header, &reply_held.to_payload(), buffer);
            self.expects_progress = true;
            return Some(Written {
                bytes,
                again: true,
                what: What::Resume,
            });
        }
        let index = self.outbox.first()?;
        let this = Held::one(index);
        self.outbox = self.outbox.without(this);
        let again = self.sent.contains(this);
        self.sent = self.sent.with(this);
        self.sent_now = self.sent_now.with(this);
        if index == 0 || index + 1 == self.count {
            self.expects_progress = true;
        }
        let mut header = RpcHeader {
            flags: self.flags(),
            ..self.header(now)
        };
        if again {
            header.flags |= flags::RETRANSMIT;
        }
        let header = header.with_fragment(index, self.count);
        let bytes = write(header, part(&self.request.call.payload, index), buffer);
        Some(Written {
            bytes,
            again,
            what: What::Fragment(index),
        })
    }

    /// Writes the packet that gives the request up, if any worker may have it.
    pub(crate) fn write_cancel(
        &self,
        now: Instant,
        buffer: &mut [u8; MAX_PACKET],
    ) -> Option<usize> {
        if self.over || self.request.ping || self.sent.is_empty() {
            return None;
        }
        let header = RpcHeader {
            flags: self.flags() | flags::CANCEL | flags::FIRST | flags::LAST,
            ..self.header(now)
        };
        Some(write(header, &[], buffer))
    }

    /// Puts back a packet that the socket would not take.
    pub(crate) const fn put_back(&mut self, written: Written) {
        match written.what {
            What::Resume => self.ask = true,
            What::Fragment(index) => {
                self.outbox = self.outbox.with(Held::one(index));
                if !written.again {
                    self.sent = self.sent.without(Held::one(index));
                }
            }
        }
    }

    /// Whether there is something to send.
    pub(crate) const fn has_packets(&self) -> bool {
        self.ask || !self.outbox.is_empty()
    }

    fn header(&self, now: Instant) -> RpcHeader {
        let call = &self.request.call;
        RpcHeader {
            kind: if self.request.ping {
                Kind::Ping
            } else {
                Kind::Request
            },
            session_id: call.session.unwrap_or(0),
            slot: call.slot.unwrap_or(SlotId(0)),
            budget_ms: budget_ms(self.deadline.saturating_duration_since(now)),
            route_cookie: self.cookie.unwrap_or(0),
            // The field is the trace id's only while no token is asked for.
            token: self.token.unwrap_or(call.trace_id),
            ..RpcHeader::request(call.function, self.request.id)
        }
    }

    fn flags(&self) -> u16 {
        let call = &self.request.call;
        [
            (call.session.is_some(), flags::HAS_SESSION),
            (call.slot.is_some(), flags::HAS_SLOT),
            (self.cookie.is_some(), flags::HAS_COOKIE),
            (self.token.is_some(), flags::HAS_TOKEN),
            (call.idempotent, flags::IDEMPOTENT),
            (call.http, flags::HTTP),
        ]
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .fold(self.request.stream_flags, |all, (_, flag)| all | flag)
    }

    /// Begins the request anew, from its first fragment and for whichever worker the balancer picks.
    pub(super) fn restart(&mut self, now: Instant) {
        self.attempts += 1;
        self.step = 0;
        self.phase = Phase::Sending;
        self.held = Held::NONE;
        self.sent_now = Held::NONE;
        self.reply = None;
        self.doubted = None;
        self.ask = false;
        self.outbox = Held::one(0);
        self.unanswered = 0;
        self.arm(now);
    }
}

/// Whole milliseconds, rounded up: 0 would mean "no budget given".
fn budget_ms(left: Duration) -> u32 {
    u32::try_from(left.as_micros().div_ceil(1_000))
        .unwrap_or(u32::MAX)
        .max(1)
}

fn write(header: RpcHeader, payload: &[u8], buffer: &mut [u8; MAX_PACKET]) -> usize {
    // A fragment is never longer than the buffer has room for; `zip` says so to the compiler.
    let header = RpcHeader {
        payload_len: payload.len() as u32,
        ..header
    };
    let (head, rest) = buffer.split_at_mut(HEADER_LEN);
    head.copy_from_slice(&header.emit());
    let len = payload.len().min(rest.len());
    if let (Some(to), Some(from)) = (rest.get_mut(..len), payload.get(..len)) {
        to.copy_from_slice(from);
    }
    HEADER_LEN + len
}
