//! Workers of an earlier run of the control plane, which count as alive until they have had time to connect again.

use std::time::{Duration, Instant};

use ebpf_common::ids::WorkerId;

#[derive(Debug, Default)]
pub(super) struct Grace {
    waiting: Vec<WorkerId>,
    length: Duration,
    until: Option<Instant>,
}

impl Grace {
    /// `length` for each of `waiting`, from [`Self::begin`] on.
    pub(super) const fn new(waiting: Vec<WorkerId>, length: Duration) -> Self {
        Self {
            waiting,
            length,
            until: None,
        }
    }

    /// Workers can connect from now on. Before, a start that takes long would use up their time.
    pub(super) fn begin(&mut self, now: Instant) {
        if !self.waiting.is_empty() {
            self.until = Some(now + self.length);
        }
    }

    /// When [`Self::end`] has something to say.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// `worker` has connected again.
    pub(super) fn connected(&mut self, worker: WorkerId) {
        self.waiting.retain(|waiting| *waiting != worker);
    }

    /// Those that have not connected again when it is over; nobody before, and nobody twice.
    pub(super) fn end(&mut self, now: Instant) -> Vec<WorkerId> {
        if self.until.is_none_or(|until| now < until) {
            return Vec::new();
        }
        self.until = None;
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(1);

    #[test]
    fn counts_from_when_workers_can_connect() {
        let mut grace = Grace::new(vec![WorkerId(1), WorkerId(2)], LENGTH);
        let made = Instant::now();
        assert_eq!(grace.until(), None);
        assert!(grace.end(made + 9 * LENGTH).is_empty(), "it has not begun");
        let listening = made + 4 * LENGTH;
        grace.begin(listening);
        grace.connected(WorkerId(1));
        assert_eq!(grace.until(), Some(listening + LENGTH));
        assert!(grace.end(listening + LENGTH / 2).is_empty());
        assert_eq!(grace.end(listening + LENGTH), [WorkerId(2)]);
        assert_eq!(grace.until(), None);
        assert!(grace.end(listening + 2 * LENGTH).is_empty(), "each once");
    }

    #[test]
    fn nobody_is_waited_for_after_a_first_start() {
        let mut grace = Grace::default();
        grace.begin(Instant::now());
        assert_eq!(grace.until(), None);
    }
}
