//! One balancer, three workers and their clients in simulated time. The balancer is the real pipeline over fake tables; each
//! request and each LOAD packet is a frame that goes through it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    ops::Range,
};

use ebpf_common::{
    cookie::CookieScope,
    ids::{FunctionId, WorkerId},
    load::LoadReport,
    maps::{Affinity, Counter, FunctionEntry, VipInfo, VipKind, WorkerState},
    wire::{RpcHeader, flags},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    Verdict, balance,
    testing::{
        FakeTables, HostPacket,
        frame::{Frame, VIP, VIP_PORT},
    },
    tests::worker_of,
};

pub(super) const MS: u64 = 1_000_000;
const US: u64 = 1_000;
/// Requests that a worker serves at a time; the others wait in its queue.
const PARALLEL: usize = 4;
/// Mean time of a request at each worker: the last one is four times slower.
const MEAN_NS: [u64; 3] = [2 * MS, 2 * MS, 8 * MS];
/// From the balancer to a worker, and from there to the client.
const WIRE_NS: u64 = 20 * US;
/// As `worker::report` has them.
const GAP_NS: u64 = 200 * US;
const EVERY_NS: u64 = 10 * MS;
/// More than any queue gets: this is about whom the rule prefers, not about whom it refuses.
const CAPACITY: u32 = 1 << 30;
const FUNCTION: FunctionId = FunctionId(0xf00d);
const LOAD_ADDR: [u8; 4] = [10, 80, 0, 2];
const LOAD_PORT: u16 = 7_001;

/// Who chooses the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// The balancer, by the warm rule.
    Warm,
    /// The client, in turn, by a valid route cookie: the way through the balancer is the same.
    RoundRobin,
    /// The client, at random, likewise.
    Random,
    /// The client, in turn but as often as each worker is fast: what round robin could do at best, if somebody knew.
    BySpeed,
}

/// What happens to packets on their way.
#[derive(Debug, Clone)]
pub(super) struct Weather {
    /// Share of LOAD packets that are lost.
    pub(super) load_lost: f64,
    /// How long the others take; they overtake each other if this varies by more than the gap between them.
    pub(super) load_delay_ns: Range<u64>,
    /// Share of requests that are lost between balancer and worker.
    pub(super) requests_lost: f64,
}

impl Weather {
    pub(super) const FAIR: Self = Self {
        load_lost: 0.0,
        load_delay_ns: 20 * US..30 * US,
        requests_lost: 0.0,
    };
}

/// What is simulated.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) policy: Policy,
    /// Arrivals, as a share of what the three workers can serve together.
    pub(super) load: f64,
    pub(super) requests: u64,
    pub(super) weather: Weather,
    /// When worker 2 starts again, with all that it holds lost.
    pub(super) worker_restarts_ns: Option<u64>,
    /// When the balancer starts again, with fresh tables of loads.
    pub(super) balancer_restarts_ns: Option<u64>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    latencies_ns: Vec<u64>,
    /// Requests by worker.
    pub(super) sent: [u64; 3],
    pub(super) counters: BTreeMap<Counter, u64>,
    /// How far the estimate of what is in flight was off after each LOAD packet that was taken in: (when, whose, by how much).
    pub(super) errors: Vec<(u64, usize, i64)>,
    /// The same just before the packet.
    pub(super) errors_before: Vec<i64>,
}

impl Outcome {
    /// The latency that `share` of the requests stay below, in milliseconds.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        let index = (self.latencies_ns.len() as f64 * share) as usize;
        self.latencies_ns[index.min(self.latencies_ns.len() - 1)] as f64 / MS as f64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    begun_ns: u64,
    /// Of the mean time of its worker, in millionths.
    demand_ppm: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next request comes to the balancer.
    Arrive,
    /// A request comes to a worker.
    Reach(usize, Request),
    /// A worker, in that life of it, is done with a request.
    Finish(usize, u32, Request),
    /// A worker sends LOAD if it has not done so since the packet of that number.
    Tell(usize, u64),
    /// A LOAD packet comes to the balancer: whose, what it says, and requests received and done when it was sent.
    Hear(usize, Vec<u8>, [u64; 2]),
    WorkerRestarts,
    BalancerRestarts,
}

#[derive(Debug, Default)]
struct Worker {
    life: u32,
    running: usize,
    queue: VecDeque<Request>,
    /// Since this life began, as it reports them.
    received: u64,
    completed: u64,
    /// Over all lives, to know the truth.
    reached: u64,
    done: u64,
    on_the_wire: u64,
    sequence: u64,
    told_ns: u64,
    tells: u64,
    will_tell: bool,
}

impl Worker {
    fn holds(&self) -> u64 {
        (self.running + self.queue.len()) as u64
    }
}

struct World {
    scenario: Scenario,
    tables: FakeTables,
    workers: [Worker; 3],
    now_ns: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    /// What arrives: the same for every policy.
    traffic: StdRng,
    /// What the weather and the client's choices are drawn from.
    chance: StdRng,
    arrived: u64,
    outcome: Outcome,
}

/// Runs `scenario` until the last request has been answered.
pub(super) fn run(scenario: &Scenario) -> Outcome {
    let mut world = World::new(scenario.clone());
    world.after(0, Event::Arrive);
    for worker in 0..3 {
        world.after(0, Event::Tell(worker, 0));
    }
    if let Some(at) = scenario.worker_restarts_ns {
        world.after(at, Event::WorkerRestarts);
    }
    if let Some(at) = scenario.balancer_restarts_ns {
        world.after(at, Event::BalancerRestarts);
    }
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        world.now_ns = at;
        world.tables.now_ns.set(at);
        world.happen(event);
    }
    let mut outcome = world.outcome;
    outcome.latencies_ns.sort_unstable();
    outcome.counters = world.tables.take_counters();
    outcome
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let mut tables = FakeTables::default();
        tables.add_vip(VIP, VIP_PORT);
        tables.add_vip_of(LOAD_ADDR, LOAD_PORT, 17, VipInfo::new(1, VipKind::Load));
        for worker in 0..3 {
            tables.add_worker(worker, WorkerState::Up);
            tables.set_load(worker, 0, CAPACITY);
        }
        let warm: Vec<_> = (0..3).map(WorkerId).collect();
        tables
            .functions
            .insert(FUNCTION, FunctionEntry::new(Affinity::None, &warm));
        tables.set_home(FUNCTION, &warm);
        Self {
            tables,
            workers: Default::default(),
            now_ns: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            traffic: StdRng::seed_from_u64(scenario.seed),
            chance: StdRng::seed_from_u64(!scenario.seed),
            arrived: 0,
            outcome: Outcome {
                latencies_ns: Vec::new(),
                sent: [0; 3],
                counters: BTreeMap::new(),
                errors: Vec::new(),
                errors_before: Vec::new(),
            },
            scenario,
        }
    }

    fn after(&mut self, delay_ns: u64, event: Event) {
        self.scheduled += 1;
        self.events
            .push(Reverse((self.now_ns + delay_ns, self.scheduled, event)));
    }

    fn is_over(&self) -> bool {
        self.arrived == self.scenario.requests
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Reach(worker, request) => self.reach(worker, request),
            Event::Finish(worker, life, request) => self.finish(worker, life, request),
            Event::Tell(worker, number) if self.workers[worker].tells == number => {
                self.tell(worker)
            }
            Event::Tell(..) => (),
            Event::Hear(worker, packet, then) => self.hear(worker, packet, then),
            Event::WorkerRestarts => {
                let old = &self.workers[2];
                self.workers[2] = Worker {
                    life: old.life + 1,
                    reached: old.reached,
                    // What it held is gone, and so no longer in flight.
                    done: old.done + old.holds(),
                    on_the_wire: old.on_the_wire,
                    sequence: old.sequence,
                    tells: old.tells + 1,
                    ..Worker::default()
                };
                self.after(5 * MS, Event::Tell(2, self.workers[2].tells));
            }
            Event::BalancerRestarts => {
                for worker in 0..3 {
                    self.tables.set_load(worker, 0, 0);
                }
            }
        }
    }

    fn arrive(&mut self) {
        let mean = MEAN_NS.iter().map(|mean| PARALLEL as f64 / *mean as f64);
        let gap_ns = 1.0 / (mean.sum::<f64>() * self.scenario.load);
        let request = Request {
            begun_ns: self.now_ns,
            demand_ppm: (exponential(&mut self.traffic) * 1e6) as u64,
        };
        let header = RpcHeader::request(FUNCTION, self.traffic.random());
        let gap = (exponential(&mut self.traffic) * gap_ns) as u64;
        let worker = self.route(header);
        self.arrived += 1;
        self.outcome.sent[worker] += 1;
        if !self.chance.random_bool(self.scenario.weather.requests_lost) {
            self.workers[worker].on_the_wire += 1;
            self.after(WIRE_NS, Event::Reach(worker, request));
        }
        if !self.is_over() {
            self.after(gap, Event::Arrive);
        }
    }

    fn route(&mut self, header: RpcHeader) -> usize {
        let choice = match self.scenario.policy {
            Policy::Warm => None,
            Policy::RoundRobin => Some((self.arrived % 3) as u16),
            Policy::Random => Some(self.chance.random_range(0..3)),
            Policy::BySpeed => Some([0, 1, 0, 1, 2, 0, 1, 0, 1][(self.arrived % 9) as usize]),
        };
        let header = match choice {
            Some(worker) => self.with_cookie(header, worker),
            None => header,
        };
        let mut packet = HostPacket::new(Frame::rpc(header, b"").bytes());
        assert_eq!(balance(&mut packet, &self.tables), Verdict::Tx);
        worker_of(&packet.bytes).into()
    }

    fn with_cookie(&self, header: RpcHeader, worker: u16) -> RpcHeader {
        let scope = CookieScope {
            function: FUNCTION,
            session: 0,
        };
        let keys = self.tables.config.unwrap().cookie_keys();
        RpcHeader {
            flags: header.flags | flags::HAS_COOKIE,
            route_cookie: keys.seal(WorkerId(worker), scope),
            ..header
        }
    }

    fn reach(&mut self, index: usize, request: Request) {
        let worker = &mut self.workers[index];
        worker.on_the_wire -= 1;
        worker.reached += 1;
        worker.received += 1;
        worker.queue.push_back(request);
        self.start_next(index);
        self.has_changed(index);
    }

    fn start_next(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        if worker.running == PARALLEL {
            return;
        }
        let Some(request) = worker.queue.pop_front() else {
            return;
        };
        worker.running += 1;
        let life = worker.life;
        let time_ns = MEAN_NS[index] * request.demand_ppm / 1_000_000;
        self.after(time_ns, Event::Finish(index, life, request));
    }

    fn finish(&mut self, index: usize, life: u32, request: Request) {
        let worker = &mut self.workers[index];
        if worker.life != life {
            return;
        }
        worker.running -= 1;
        worker.completed += 1;
        worker.done += 1;
        let latency_ns = self.now_ns + WIRE_NS - request.begun_ns;
        self.outcome.latencies_ns.push(latency_ns);
        self.start_next(index);
        self.has_changed(index);
    }

    /// Tells of it now, or when the gap after the last packet is over.
    fn has_changed(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        if worker.will_tell {
            return;
        }
        worker.will_tell = true;
        let (due_ns, number) = (worker.told_ns + GAP_NS, worker.tells);
        self.after(
            due_ns.saturating_sub(self.now_ns),
            Event::Tell(index, number),
        );
    }

    fn tell(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        worker.sequence += 1;
        worker.tells += 1;
        worker.told_ns = self.now_ns;
        worker.will_tell = false;
        let report = LoadReport {
            worker: WorkerId(index as u16),
            sequence: worker.sequence,
            received: worker.received,
            completed: worker.completed,
            capacity: CAPACITY,
        };
        let (number, then) = (worker.tells, [worker.reached, worker.done]);
        let config = self.tables.config.unwrap();
        let epoch = config.key_epoch as u8;
        let key = config.load_keys().of(report.worker, epoch);
        let frame = Frame {
            destination: LOAD_ADDR.into(),
            port: LOAD_PORT,
            ..Frame::rpc(report.seal(epoch, key), b"")
        };
        let is_idle = worker.holds() + worker.on_the_wire == 0;
        if !self.chance.random_bool(self.scenario.weather.load_lost) {
            let delay = self.scenario.weather.load_delay_ns.clone();
            let delay = self.chance.random_range(delay);
            self.after(delay, Event::Hear(index, frame.bytes(), then));
        }
        if !(self.is_over() && is_idle) {
            self.after(EVERY_NS, Event::Tell(index, number));
        }
    }

    /// Takes the packet in, and compares the estimate with the truth.
    fn hear(&mut self, index: usize, packet: Vec<u8>, [reached, done]: [u64; 2]) {
        let before = self.tables.load(index as u16);
        let verdict = balance(&mut HostPacket::new(packet), &self.tables);
        let after = self.tables.load(index as u16);
        let worker = &self.workers[index];
        let truth = (worker.holds() + worker.on_the_wire) as i64;
        if verdict != Verdict::Consumed {
            assert_eq!(
                before, after,
                "a packet that was not taken in changes nothing"
            );
            return;
        }
        let error = i64::from(after.in_flight_now()) - truth;
        // All that it may be wrong by is what has happened while the packet was on its way, and requests that still are.
        let unseen_done = (worker.done - done) as i64;
        let unseen_sent = (worker.reached - reached + worker.on_the_wire) as i64;
        assert_eq!(error, unseen_done - unseen_sent);
        self.outcome.errors.push((self.now_ns, index, error));
        let before = i64::from(before.in_flight_now()) - truth;
        self.outcome.errors_before.push(before);
    }
}

/// Exponentially distributed with mean 1.
fn exponential(rng: &mut StdRng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}
