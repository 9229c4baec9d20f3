//! The check finds what it is there for.

use std::time::Duration;

use super::*;
use crate::loss::kinds::{FLOW_PACKETS, FLOWS};

const FIRST: u64 = SESSIONS;
const KINDS: usize = Kind::COUNT;
const MAGLEV_TABLE_LEN: usize = 65_537;

fn right(worker: u16) -> Right {
    let worker = WorkerId(worker);
    Right {
        warm: vec![worker],
        slots: Arc::new(vec![worker; 16_384]),
        home: Arc::new(vec![worker; MAGLEV_TABLE_LEN]),
        client: Ipv4Addr::new(10, 80, 0, 3),
    }
}

/// What was sent and what came.
struct Run {
    begin: Instant,
    sent: Vec<Instant>,
    arrivals: Vec<Vec<Arrival>>,
}

impl Run {
    /// Sessions on worker 0.
    fn new() -> Self {
        let begin = Instant::now();
        let mut arrivals: Vec<Vec<Arrival>> = vec![Vec::new(); 4];
        arrivals[0] = (0..FIRST).map(|number| (number, begin)).collect();
        Self {
            begin,
            sent: vec![begin; FIRST as usize],
            arrivals,
        }
    }

    /// The next packet, sent at `sent_us`, half a millisecond on its way to `worker`; none of that number loses it.
    fn packet(&mut self, sent_us: u64, worker: u16) {
        let number = self.sent.len() as u64;
        let sent = self.begin + Duration::from_micros(sent_us);
        self.sent.push(sent);
        self.arrive(worker, number, sent + Duration::from_micros(500));
    }

    fn arrive(&mut self, worker: u16, number: u64, at: Instant) {
        if let Some(sink) = self.arrivals.get_mut(usize::from(worker)) {
            sink.push((number, at));
        }
    }

    /// The tables mean worker 0, and from 10 ms on worker 1.
    fn check(self) -> Verdict {
        let at = |us: u64| self.begin + Duration::from_micros(us);
        let mut log = Log::new(right(0));
        log.add(Changed {
            begun: at(10_000),
            done: at(10_100),
            right: right(1),
        });
        log.check(&self.sent, self.arrivals)
    }
}

/// One packet of each kind, a millisecond apart, that `workers` get; the second one meets the change.
fn one_of_each(workers: [u16; KINDS]) -> Run {
    let mut run = Run::new();
    for (index, worker) in (0..).zip(workers) {
        run.packet(8_800 + index * 1_000, worker);
    }
    run
}

/// Whom the packet means if its kind does not depend on the tables.
fn fixed(index: u64) -> Option<u16> {
    match Kind::of(FIRST + index) {
        Kind::Session(_) => Some(0),
        Kind::Cookie(worker) => Some(worker.0),
        _ => None,
    }
}

/// Good workers: old ones before the change, new ones after it, `met` for those that meet it.
fn good(met: u16) -> [u16; KINDS] {
    std::array::from_fn(|index| {
        let by_table = match index {
            0 => 0,
            1 => met,
            _ => 1,
        };
        fixed(index as u64).unwrap_or(by_table)
    })
}

#[test]
fn every_kind_has_its_share() {
    let mut kinds = [0; KINDS];
    for number in 0..KINDS as u64 {
        kinds[Kind::of(FIRST + number).index()] += 1;
    }
    assert_eq!(kinds, [1; KINDS]);
}

#[test]
fn a_packet_that_meets_a_change_may_come_to_either_worker() {
    for met in [0, 1] {
        let verdict = one_of_each(good(met)).check();
        assert_eq!(verdict.met_a_change, 1);
        verdict.verdict().unwrap();
    }
}

#[test]
fn a_lost_packet_and_one_at_a_wrong_worker_are_found() {
    for index in 0..KINDS {
        let mut workers = good(0);
        workers[index] = 9;
        let verdict = one_of_each(workers).check();
        assert_eq!(verdict.lost, [FIRST + index as u64]);
        verdict.verdict().unwrap_err();
        // The worker of before the change, or of after it, or none of them.
        workers[index] = match (fixed(index as u64), index) {
            (Some(worker), _) => (worker + 1) % 4,
            (None, 0) => 1,
            (None, 1) => 2,
            (None, _) => 0,
        };
        let verdict = one_of_each(workers).check();
        assert_eq!(verdict.wrong.len(), 1, "{index}: {:?}", verdict.wrong);
        verdict.verdict().unwrap_err();
    }
}

#[test]
fn a_packet_that_came_twice_is_found_wherever_it_came_to() {
    for index in 0..KINDS {
        let workers = good(0);
        let number = FIRST + index as u64;
        for other in [workers[index], (workers[index] + 1) % 4] {
            let mut run = one_of_each(workers);
            let again = run.begin + Duration::from_micros(9_400 + index as u64 * 1_000);
            run.arrive(other, number, again);
            let verdict = run.check();
            assert_eq!((verdict.lost.len(), &verdict.twice), (0, &vec![number]));
            let complaint = verdict.verdict().unwrap_err().to_string();
            assert_eq!(complaint, format!("came twice: [{number}]"));
        }
    }
}

/// A flow that begins at `began_us`, on worker `first`, and goes on after the change on worker `then`.
fn flow(began_us: u64, first: u16, then: u16) -> Verdict {
    let mut run = Run::new();
    let whose = |run: &Run| Kind::of(run.sent.len() as u64);
    while !matches!(whose(&run), Kind::Flow(_)) {
        let number = run.sent.len() as u64;
        run.packet(0, fixed(number - FIRST).unwrap_or(0));
    }
    let ours = whose(&run);
    run.packet(began_us, first);
    while whose(&run) != ours {
        let number = run.sent.len() as u64;
        run.packet(20_000, fixed(number - FIRST).unwrap_or(1));
    }
    run.packet(20_000, then);
    run.check()
}

#[test]
fn a_flow_stays_where_its_first_packet_was_right() {
    // Before the change, in the midst of it, and after it.
    for (began_us, worker) in [(1_000, 0), (9_800, 0), (9_800, 1), (11_000, 1)] {
        flow(began_us, worker, worker)
            .verdict()
            .unwrap_or_else(|error| {
                assert!(error.to_string().contains("met a change"), "{error}");
            });
        let moved = flow(began_us, worker, 1 - worker);
        assert_eq!(moved.wrong.len(), 1, "{:?}", moved.wrong);
        moved.verdict().unwrap_err();
    }
    // It began where it never should have.
    for (began_us, worker) in [(1_000, 1), (9_800, 2), (11_000, 0)] {
        assert_eq!(flow(began_us, worker, worker).wrong.len(), 1);
    }
}

#[test]
fn each_flow_has_its_packets_and_then_another_takes_its_place() {
    let mut packets: HashMap<u64, u64> = HashMap::new();
    let round = FLOWS * FLOW_PACKETS * KINDS as u64;
    // Whole rounds behind the packets that open sessions.
    for number in round..3 * round {
        if let Kind::Flow(flow) = Kind::of(number) {
            *packets.entry(flow).or_default() += 1;
        }
    }
    assert_eq!(packets.len() as u64, 2 * FLOWS);
    assert!(packets.values().all(|count| *count == FLOW_PACKETS));
    assert_eq!(
        (source_port(0), source_port(45_535)),
        (Some(20_000), Some(65_535))
    );
    assert_eq!(source_port(45_536), None);
}
