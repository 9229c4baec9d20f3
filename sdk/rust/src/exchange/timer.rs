//! What an exchange does when nothing comes.

use std::time::{Duration, Instant};

use super::{End, Exchange, GONE_AFTER, Phase};
use crate::{fragment::Held, rtt::backoff};

/// How long a gap in a reply may last before it is asked for; a reply's fragments arrive together.
const GAP: Duration = Duration::from_millis(5);

impl Exchange {
    /// Tells the exchange that its timer is due. Calling it early does nothing.
    pub(crate) fn on_timer(&mut self, now: Instant) {
        if self.over || now < self.timer {
            return;
        }
        if now >= self.deadline {
            self.end_with(End::TimedOut);
            return;
        }
        if self.phase == Phase::Pausing {
            self.restart(now);
            return;
        }
        self.unanswered += 1;
        self.step += 1;
        if self.unanswered > GONE_AFTER && self.cookie.is_some() && self.may_go_elsewhere() {
            self.cookie = None;
            self.restart(now);
            return;
        }
        self.retransmits += 1;
        match self.phase {
            Phase::Sending => self.outbox = self.outbox.with(Held::one(0)),
            _ => self.ask = true,
        }
        self.arm(now);
    }

    /// Whether another worker may be asked: the handler may run twice, or cannot have run yet, or
    /// nobody ever said that it has the request.
    fn may_go_elsewhere(&self) -> bool {
        self.request.call.idempotent || self.phase == Phase::Sending || !self.may_have_run()
    }

    /// Sets the timer for the present step.
    pub(super) fn arm(&mut self, now: Instant) {
        let wait = backoff(self.timing.first, self.step, self.timing.max);
        self.timer = (now + wait).min(self.deadline);
    }

    /// Sets the timer for the rest of a reply that has begun to arrive.
    pub(super) fn arm_for_gap(&mut self, now: Instant) {
        self.timer = (now + GAP).min(self.deadline);
    }

    /// Waits until `wait` has passed, then begins again; `false` if that is beyond the deadline.
    pub(super) fn pause(&mut self, wait: Duration, now: Instant) -> bool {
        let base = wait.max(self.timing.first / 4);
        let wait = backoff(
            base,
            self.attempts.saturating_sub(1).min(6),
            self.timing.max.max(base),
        );
        if now + wait >= self.deadline {
            return false;
        }
        self.phase = Phase::Pausing;
        self.outbox = Held::NONE;
        self.ask = false;
        self.timer = now + wait;
        true
    }
}
