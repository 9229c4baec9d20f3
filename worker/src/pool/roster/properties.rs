//! Whatever comes in whatever order: no place is lost, none is given twice, nobody waits beside a free one.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// Places of an instance with several.
#[derive(Debug)]
struct Part {
    number: u64,
    free: usize,
    all: usize,
    paused: bool,
}

impl Places for Part {
    fn number(&self) -> u64 {
        self.number
    }

    fn is_whole(&self) -> bool {
        self.free == self.all
    }

    fn split(&mut self) -> Option<Self> {
        if self.free == 1 {
            return None;
        }
        self.free -= 1;
        Some(Self { free: 1, ..*self })
    }

    fn merge(&mut self, other: Self) {
        assert_eq!(self.number, other.number);
        self.free += other.free;
        assert!(self.free <= self.all, "a place was given twice");
    }

    fn is_paused(&self) -> bool {
        self.paused
    }
}

#[derive(Debug, Clone)]
enum Step {
    Arrive(Option<u64>),
    GiveUp(usize),
    Finish(usize),
    Break(usize),
    Start,
    Fail,
    Evict,
    Pause,
    Paused(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::option::of(0..4_u64).prop_map(Step::Arrive),
        1 => any::<usize>().prop_map(Step::GiveUp),
        5 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Break),
        2 => Just(Step::Start),
        1 => Just(Step::Fail),
        1 => Just(Step::Evict),
        2 => Just(Step::Pause),
        2 => any::<usize>().prop_map(Step::Paused),
    ];
    prop::collection::vec(step, 0..80)
}

type Receiver = oneshot::Receiver<Granted<Part, ()>>;

/// What the world outside the roster holds.
struct World {
    roster: Roster<Part, ()>,
    all: usize,
    /// Places that requests have.
    held: Vec<Part>,
    queued: Vec<(Receiver, Option<u64>)>,
    /// Instances that are being paused.
    pausing: Vec<Part>,
    /// Live instances.
    alive: HashSet<u64>,
    numbers: u64,
}

impl World {
    fn new(all: usize) -> Self {
        Self {
            roster: Roster::new(100, all),
            all,
            held: Vec::new(),
            queued: Vec::new(),
            pausing: Vec::new(),
            alive: HashSet::new(),
            numbers: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Arrive(session) => match self.roster.seat(session) {
                Seat::Taken(place) => self.hold(place),
                Seat::Waits(receiver) | Seat::WaitsForOne(receiver) => {
                    self.queued.push((receiver, session));
                }
            },
            Step::GiveUp(which) => {
                if !self.queued.is_empty() {
                    self.queued.swap_remove(which % self.queued.len());
                }
            }
            Step::Finish(which) => {
                if !self.held.is_empty() {
                    let place = self.held.swap_remove(which % self.held.len());
                    self.roster.release(place);
                }
            }
            Step::Break(which) => self.end(which),
            Step::Start => {
                self.numbers += 1;
                self.alive.insert(self.numbers);
                self.roster.starts();
                self.roster.started(Ok(Part {
                    number: self.numbers,
                    free: self.all,
                    all: self.all,
                    paused: false,
                }));
            }
            Step::Fail => {
                self.roster.starts();
                self.roster.started(Err(()));
            }
            Step::Evict => {
                for evicted in self.roster.take_idle_if(|_| true) {
                    assert!(evicted.is_whole());
                    self.alive.remove(&evicted.number);
                }
            }
            Step::Pause => self.pausing.extend(self.roster.take_to_pause(|_| true)),
            Step::Paused(which) => {
                if !self.pausing.is_empty() {
                    let mut part = self.pausing.swap_remove(which % self.pausing.len());
                    part.paused = true;
                    self.roster.release(part);
                }
            }
        }
        self.collect();
    }

    /// The instance of one of the requests breaks, and with it all of its places go.
    fn end(&mut self, which: usize) {
        if self.held.is_empty() {
            return;
        }
        let number = self.held[which % self.held.len()].number;
        self.roster.take_free(number);
        self.held.retain(|place| place.number != number);
        self.alive.remove(&number);
        self.roster.lost(number);
    }

    /// Takes what was granted meanwhile.
    fn collect(&mut self) {
        let (mut waiting, mut granted) = (Vec::new(), Vec::new());
        for (mut receiver, session) in self.queued.drain(..) {
            match receiver.try_recv() {
                Ok(Ok(place)) => granted.push(place),
                Ok(Err(())) => {}
                Err(oneshot::error::TryRecvError::Empty) => waiting.push((receiver, session)),
                Err(oneshot::error::TryRecvError::Closed) => panic!("sent away without a word"),
            }
        }
        self.queued = waiting;
        granted.into_iter().for_each(|place| self.hold(place));
    }

    /// A request has a place; it thaws its instance if need be.
    fn hold(&mut self, mut place: Part) {
        if std::mem::take(&mut place.paused) {
            let number = place.number;
            let lists = self.roster.partly.iter_mut();
            lists
                .filter(|rest| rest.number == number)
                .for_each(|rest| rest.paused = false);
        }
        self.held.push(place);
    }

    fn check(&mut self) {
        for number in &self.alive {
            let free = self.roster.idle().chain(&self.roster.partly);
            let free = free.filter(|free| free.number == *number);
            let (lists, free) = free.fold((0, 0), |(n, sum), free| (n + 1, sum + free.free));
            let held = self.held.iter().chain(&self.pausing);
            let held = held.filter(|place| place.number == *number);
            let held: usize = held.map(|place| place.free).sum();
            assert_eq!(free + held, self.all, "places of {number}");
            assert!(lists <= 1, "{number} is in two lists");
            assert_eq!(self.roster.busy.contains_key(number), held > 0);
        }
        assert!(self.held.iter().all(|place| place.free == 1));
        assert!(self.roster.idle().all(Places::is_whole));
        assert!(!self.roster.idle.iter().any(Places::is_paused));
        assert!(self.roster.paused.iter().all(Places::is_paused));
        assert!(!self.roster.partly.iter().any(Places::is_whole));
        let anything_free = self
            .roster
            .idle()
            .chain(&self.roster.partly)
            .next()
            .is_some();
        let demand = self.roster.demand();
        assert_eq!(demand.live, self.alive.len());
        assert!(
            demand.wanted == 0 || !anything_free,
            "waits beside a free place"
        );
    }
}

proptest! {
    #[test]
    fn every_place_is_somewhere_and_nobody_waits_beside_a_free_one(
        all in 1..5_usize,
        steps in steps(),
    ) {
        let mut world = World::new(all);
        for step in steps {
            world.step(step);
            world.check();
        }
    }

    #[test]
    fn instances_with_free_places_are_filled_before_others_are_wanted(all in 1..9_usize) {
        let mut world = World::new(all);
        world.step(Step::Start);
        world.step(Step::Start);
        for _ in 0..all {
            world.step(Step::Arrive(None));
        }
        prop_assert!(world.held.iter().all(|place| place.number == world.held[0].number));
        prop_assert_eq!(world.roster.idle().count(), 1);
        for _ in 0..2 * all {
            world.step(Step::Arrive(None));
        }
        prop_assert_eq!(world.roster.demand().wanted, 1);
    }
}
