//! What an exchange makes of an answer. Nothing in it is believed before it is checked.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ebpf_common::wire::{Kind, RpcHeader, Status, flags};

use super::{Exchange, Phase, RETRIES_AT_ONCE, Reply, SHOWN};
use crate::fragment::{Added, Held, Reassembly};

/// Whatever a worker says, it is asked after a request at least so often.
const ASK_AFTER_MAX: Duration = Duration::from_secs(60);

/// An answer that contradicts the request or itself; it has changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejected;

impl Exchange {
    /// Takes in an answer with this request's id.
    ///
    /// # Errors
    /// [`Rejected`] if it is no possible answer to this request.
    pub(crate) fn on_packet(
        &mut self,
        header: &RpcHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Rejected> {
        if self.over {
            return Ok(());
        }
        if header.function != self.function() {
            return Err(Rejected);
        }
        let status = status_of(header.status);
        match header.kind {
            Kind::Response if status == Status::Continue => {
                self.on_progress(header, payload, now)?
            }
            Kind::Response => self.on_reply(status, header, payload, now)?,
            Kind::Error => self.on_error(status, header, payload, now)?,
            Kind::Retry => self.on_retry(header)?,
            Kind::Request | Kind::Load | Kind::Ping => return Err(Rejected),
        }
        self.unanswered = 0;
        Ok(())
    }

    /// The balancer has not passed on a packet of ours, and tells the token to show: shows it at once.
    fn on_retry(&mut self, header: &RpcHeader) -> Result<(), Rejected> {
        if !header.has(flags::HAS_TOKEN) {
            return Err(Rejected);
        }
        // A second RETRY to packets that were sent together; or a balancer that does not take its own token.
        if self.token == Some(header.token) {
            return Ok(());
        }
        self.token = Some(header.token);
        self.retries += 1;
        if self.retries > RETRIES_AT_ONCE {
            return Ok(());
        }
        match self.phase {
            Phase::Sending => self.outbox = self.outbox.with(Held::one(0)),
            // Which of the fragments was not passed on, the worker knows.
            Phase::Uploading | Phase::Waiting | Phase::Receiving => self.ask = true,
            Phase::Pausing => (),
        }
        Ok(())
    }

    fn on_progress(
        &mut self,
        header: &RpcHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Rejected> {
        let held = Held::from_payload(payload).ok_or(Rejected)?;
        let all = Held::all(self.count);
        if !all.contains(held) || self.request.ping {
            return Err(Rejected);
        }
        self.acknowledged = true;
        match self.phase {
            Phase::Sending | Phase::Uploading | Phase::Pausing => (),
            Phase::Waiting => {
                if self.is_of_our_worker(header) {
                    self.doubted = None;
                }
                self.ask_after(header, now);
                return Ok(());
            }
            // A reply has begun: a late word of less tells nothing.
            Phase::Receiving => return Ok(()),
        }
        if let Some(cookie) = cookie_of(header) {
            self.cookie = Some(cookie);
        }
        self.doubted = None;
        if held == all {
            self.phase = Phase::Waiting;
            self.outbox = Held::NONE;
            self.arm(now);
            self.ask_after(header, now);
        } else if self.expects_progress || self.phase != Phase::Uploading {
            // Not what this answer may have crossed on the way: that is still in the outbox.
            self.expects_progress = false;
            self.phase = Phase::Uploading;
            self.held = held;
            self.outbox = all.without(held);
            self.step = 0;
            self.arm(now);
        }
        Ok(())
    }

    /// A worker that has parked the request says when to ask after it: until then silence means nothing.
    fn ask_after(&mut self, header: &RpcHeader, now: Instant) {
        if header.budget_ms > 0 {
            let wait = Duration::from_millis(header.budget_ms.into()).min(ASK_AFTER_MAX);
            self.timer = (now + wait).min(self.deadline);
        }
    }

    fn on_reply(
        &mut self,
        status: Status,
        header: &RpcHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Rejected> {
        let flags = header.flags & SHOWN;
        // Who asked for no stream would take its place for the reply.
        if flags & flags::STREAM & !self.request.stream_flags != 0 {
            return Err(Rejected);
        }
        if header.fragment_count == 1 {
            self.cookie = cookie_of(header).or(self.cookie);
            self.replied(status, Bytes::copy_from_slice(payload), flags);
            return Ok(());
        }
        let cookie = cookie_of(header);
        let reply = self.reply.get_or_insert_with(|| Reply {
            status,
            cookie,
            flags,
            parts: Reassembly::new(header.fragment_count),
        });
        // Fragments of two workers' replies do not mix.
        if reply.status != status || reply.cookie != cookie || reply.flags != flags {
            return Err(Rejected);
        }
        let added = reply
            .parts
            .add(header.fragment_index, header.fragment_count, payload);
        match added {
            Err(_) => return Err(Rejected),
            Ok(Added::Duplicate) => (),
            Ok(Added::Kept) => {
                self.phase = Phase::Receiving;
                self.acknowledged = true;
                self.cookie = cookie.or(self.cookie);
                self.outbox = Held::NONE;
                self.step = 0;
                self.arm_for_gap(now);
            }
            Ok(Added::Complete) => {
                self.cookie = cookie.or(self.cookie);
                let message = self.reply.take().map(|reply| reply.parts.into_message());
                self.replied(status, message.unwrap_or_default(), flags);
            }
        }
        Ok(())
    }

    fn on_error(
        &mut self,
        status: Status,
        header: &RpcHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Rejected> {
        if matches!(status, Status::Ok | Status::Continue) {
            return Err(Rejected);
        }
        if status == Status::UnknownRequest {
            self.on_unknown_request(header, payload, now);
            return Ok(());
        }
        let wait = Duration::from_millis(u64::from(header.budget_ms));
        let retry_after = (header.budget_ms > 0).then_some(wait);
        if self.may_run_elsewhere(header) {
            return self.on_foreign_error(status, wait, now);
        }
        if status.is_retryable() && self.phase == Phase::Pausing {
            return Ok(());
        }
        let is_of_our_worker = self.is_of_our_worker(header);
        // An overloaded worker is still the session's own, and so is that of a function above its rate; all the others
        // have given it up.
        let is_only_busy = matches!(status, Status::Overloaded | Status::RateLimited);
        if status.is_retryable() && !(is_only_busy && self.call().session.is_some()) {
            self.cookie = None;
        }
        if !status.is_retryable() || !self.pause(wait, now) {
            let may_have_run = self.retransmits > 0 && self.may_have_run() && !is_of_our_worker;
            if status.is_retryable() && may_have_run && !self.request.call.idempotent {
                self.refused_at_last(status);
            } else {
                self.finish(status, Bytes::copy_from_slice(payload), retry_after);
            }
        }
        Ok(())
    }

    /// Ends with a refusal of what was sent before: whoever got that may have run it, and the reply may be what is lost.
    fn refused_at_last(&mut self, status: Status) {
        let message = format!("sent more than once; refused at last: {}", status.name());
        self.finish(Status::OutcomeUnknown, Bytes::from(message), None);
    }

    /// Whether a worker other than the sender of `header` may have run the handler, or still run it:
    /// then an ERROR of the sender does not say that the request was not run.
    fn may_run_elsewhere(&self, header: &RpcHeader) -> bool {
        let acknowledged = matches!(
            self.phase,
            Phase::Uploading | Phase::Waiting | Phase::Receiving
        );
        acknowledged
            && self.may_have_run()
            && !self.is_of_our_worker(header)
            && !self.request.call.idempotent
    }

    /// Whether `header` is of the worker that our cookie names.
    fn is_of_our_worker(&self, header: &RpcHeader) -> bool {
        self.cookie.is_some() && cookie_of(header) == self.cookie
    }

    fn on_foreign_error(
        &mut self,
        status: Status,
        wait: Duration,
        now: Instant,
    ) -> Result<(), Rejected> {
        if status.is_retryable() {
            // Our worker cannot be reached just now: go on asking, not before it makes sense.
            self.timer = self.timer.max(now + wait).min(self.deadline);
        } else {
            let message = format!(
                "acknowledged by a worker that is gone; then: {}",
                status.name()
            );
            self.finish(Status::OutcomeUnknown, Bytes::from(message), None);
        }
        Ok(())
    }

    /// Whether our worker has been in doubt for a while. A stranger that knows nothing of the request says by that that our
    /// worker is gone; or it is one that had the request before, and its word comes late. So it is asked once more.
    fn is_doubted(&mut self, now: Instant) -> bool {
        let ask_at = *self.doubted.get_or_insert(now) + self.timing.first;
        self.timer = self.timer.min(ask_at);
        now >= ask_at
    }

    /// The worker reached has nothing of this request: it is another one, or was started anew.
    fn on_unknown_request(&mut self, header: &RpcHeader, payload: &[u8], now: Instant) {
        let asked = matches!(
            self.phase,
            Phase::Uploading | Phase::Waiting | Phase::Receiving
        );
        if !asked {
            return;
        }
        let ends = !self.request.call.idempotent && self.may_have_run();
        if ends && !self.is_of_our_worker(header) && !self.is_doubted(now) {
            return;
        }
        self.cookie = None;
        if ends {
            let message = if payload.is_empty() {
                Bytes::from_static(
                    b"the worker that took the request has lost it; its handler may have run",
                )
            } else {
                Bytes::copy_from_slice(payload)
            };
            self.finish(Status::OutcomeUnknown, message, None);
        } else if !self.pause(Duration::ZERO, now) {
            self.finish(
                Status::UnknownRequest,
                Bytes::copy_from_slice(payload),
                None,
            );
        }
    }
}

fn cookie_of(header: &RpcHeader) -> Option<u64> {
    header.has(flags::HAS_COOKIE).then_some(header.route_cookie)
}

/// The status of wire number `code`; of one that this version does not know, its class is left.
fn status_of(code: u16) -> Status {
    Status::from_code(code).unwrap_or(match code {
        0..=99 => Status::BadReply,
        100..=199 => Status::Malformed,
        200..=299 => Status::Exception,
        _ => Status::OutcomeUnknown,
    })
}
