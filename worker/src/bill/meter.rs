//! Splits the counters of one instance among the requests that ran in it.
//!
//! The counters are of the instance's whole cgroup, and only grow. Each reading closes an interval; what was
//! used in it belongs to
//! - the *start* while the instance has served nothing: making its sandbox, forking, loading the function;
//! - the requests that ran meanwhile, in equal parts: the kernel does not say which of them a thread worked for, and
//!   the handler is not asked;
//! - the *idle* time if none ran: what the runtime does after a reply, and threads and children left running.
//!
//! Start and idle time are charged to the next request that begins, stated apart. What is left when the
//! instance has ended is the remainder, and no request's.

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// CPU time of everything that ever ran in the cgroup.
    pub cpu_ns: u64,
    /// Time, from any fixed moment.
    pub at_us: u64,
}

/// Stands for a running request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What one request is charged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Charge {
    /// CPU time, the parts below included.
    pub cpu_ns: u64,
    /// The part that starting the instance took.
    pub start_cpu_ns: u64,
    /// The part used since the last request ended.
    pub idle_cpu_ns: u64,
    /// Its share of the time in which the instance served.
    pub share_us: u64,
}

/// The state of the split.
#[derive(Debug, Default)]
pub struct Meter {
    last: Reading,
    tickets: u64,
    /// Not yet charged: of the start, or of idle time.
    start_ns: u64,
    idle_ns: u64,
    running: Vec<(Ticket, Charge)>,
}

impl Meter {
    /// A request begins.
    pub fn begin(&mut self, now: Reading) -> Ticket {
        self.close(now);
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        let (start_cpu_ns, idle_cpu_ns) = (
            std::mem::take(&mut self.start_ns),
            std::mem::take(&mut self.idle_ns),
        );
        let charge = Charge {
            cpu_ns: start_cpu_ns + idle_cpu_ns,
            start_cpu_ns,
            idle_cpu_ns,
            share_us: 0,
        };
        self.running.push((ticket, charge));
        ticket
    }

    /// A request ends. One that does not run is charged nothing.
    pub fn end(&mut self, ticket: Ticket, now: Reading) -> Charge {
        self.close(now);
        let at = self.running.iter().position(|(other, _)| *other == ticket);
        at.map_or_else(Charge::default, |at| self.running.swap_remove(at).1)
    }

    /// The instance has ended: what no request was charged.
    pub fn remainder(&mut self, now: Reading) -> u64 {
        self.close(now);
        let unfinished: u64 = self
            .running
            .drain(..)
            .map(|(_, charge)| charge.cpu_ns)
            .sum();
        std::mem::take(&mut self.start_ns) + std::mem::take(&mut self.idle_ns) + unfinished
    }

    /// Gives out what was used since the last reading. A counter that went backwards counts as still.
    fn close(&mut self, now: Reading) {
        let cpu_ns = now.cpu_ns.saturating_sub(self.last.cpu_ns);
        let time_us = now.at_us.saturating_sub(self.last.at_us);
        self.last = Reading {
            cpu_ns: self.last.cpu_ns + cpu_ns,
            at_us: self.last.at_us + time_us,
        };
        let count = self.running.len() as u64;
        if count == 0 {
            let line = if self.tickets == 0 {
                &mut self.start_ns
            } else {
                &mut self.idle_ns
            };
            *line += cpu_ns;
            return;
        }
        for (index, (_, charge)) in self.running.iter_mut().enumerate() {
            charge.cpu_ns += part(cpu_ns, index as u64, count);
            charge.share_us += part(time_us, index as u64, count);
        }
    }
}

/// Part `index` of `count` equal whole parts of `whole`; the first ones take what does not divide.
const fn part(whole: u64, index: u64, count: u64) -> u64 {
    whole / count + (index < whole % count) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(cpu_ns: u64, at_us: u64) -> Reading {
        Reading { cpu_ns, at_us }
    }

    #[test]
    fn the_first_request_pays_the_start_and_the_next_what_was_used_in_between() {
        let mut meter = Meter::default();
        let first = meter.begin(at(700, 10));
        let charge = meter.end(first, at(1_000, 30));
        assert_eq!(
            charge,
            Charge {
                cpu_ns: 1_000,
                start_cpu_ns: 700,
                idle_cpu_ns: 0,
                share_us: 20
            }
        );
        let second = meter.begin(at(1_050, 100));
        let charge = meter.end(second, at(1_250, 101));
        assert_eq!(
            charge,
            Charge {
                cpu_ns: 250,
                start_cpu_ns: 0,
                idle_cpu_ns: 50,
                share_us: 1
            }
        );
        assert_eq!(meter.remainder(at(1_260, 200)), 10);
    }

    #[test]
    fn requests_at_the_same_time_share_what_is_used_meanwhile() {
        let mut meter = Meter::default();
        let a = meter.begin(at(0, 0));
        let b = meter.begin(at(100, 100));
        let a = meter.end(a, at(301, 300));
        let b = meter.end(b, at(401, 400));
        assert_eq!((a.cpu_ns, a.share_us), (201, 200));
        assert_eq!((b.cpu_ns, b.share_us), (200, 200));
    }

    #[test]
    fn an_unused_instance_is_all_remainder() {
        assert_eq!(Meter::default().remainder(at(5, 5)), 5);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        End(usize),
        Forget(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Begin),
            (0..8_usize).prop_map(Step::End),
            (0..8_usize).prop_map(Step::Forget),
        ]
    }

    proptest! {
        /// Whatever happens, charges and remainder are what the counter says; also when tickets are lost
        /// and when a reading goes backwards.
        #[test]
        fn nothing_falls_between_two_bills(
            steps in proptest::collection::vec((step(), 0..1_000_u64, any::<bool>()), 0..60),
        ) {
            let (mut meter, mut live) = (Meter::default(), Vec::new());
            let (mut now, mut charged) = (Reading::default(), 0);
            for (step, used, backwards) in steps {
                now.cpu_ns += used;
                now.at_us += used / 2;
                let mut seen = now;
                if backwards {
                    seen.cpu_ns = seen.cpu_ns.saturating_sub(500);
                }
                match step {
                    Step::Begin => live.push(meter.begin(seen)),
                    Step::End(at) if at < live.len() => {
                        charged += meter.end(live.remove(at), seen).cpu_ns;
                    }
                    Step::Forget(at) if at < live.len() => drop(live.remove(at)),
                    Step::End(_) | Step::Forget(_) => {}
                }
            }
            prop_assert_eq!(charged + meter.remainder(now), now.cpu_ns);
        }
    }
}
