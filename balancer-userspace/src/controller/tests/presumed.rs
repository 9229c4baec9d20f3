//! Workers whose connection is lost while their LOAD packets come.

use super::*;

impl Bench {
    /// Nothing is heard of the worker of `connection` any more.
    fn fall_silent(&mut self, connection: ConnectionId) {
        self.controller
            .handle(Event::Connection(ConnectionEvent::Closed {
                connection,
                is_silent: true,
            }));
        self.settle();
    }

    /// The program takes the next LOAD packet of worker 0 in, which has received `received` requests.
    fn next_load(&mut self, received: u64) {
        let load = &mut self.controller.applier.store_mut().loads[0];
        load.sequence += 1;
        load.sent_at_report = load.sent;
        load.received = received;
        load.capacity = 8;
    }

    fn look(&mut self, now: Instant) {
        self.controller.look_at_loads(now);
        self.settle();
    }

    /// With a worker that is presumed alive.
    fn with_presumed() -> (Self, ConnectionId) {
        let mut bench = Self::new();
        let (connection, _) = bench.join("w0", "0-99");
        bench.beat(connection, 0, &[FunctionId::of(FUNCTION)]);
        bench.next_load(0);
        bench.look(Instant::now());
        bench.next_load(0);
        bench.fall_silent(connection);
        (bench, connection)
    }

    fn patience_ms(&self) -> u64 {
        let terms = self.controller.config.membership.as_ref().unwrap();
        u64::from(terms.lease_ms).min(1000)
    }

    fn presumed(&self) -> i64 {
        self.controller.metrics.presumed.get()
    }
}

#[test]
fn a_worker_whose_connection_is_lost_is_up_for_as_long_as_its_load_packets_come() {
    let (mut bench, _) = Bench::with_presumed();
    assert_eq!(bench.row(0).state(), WorkerState::Up);
    assert!(bench.controller.workers()[0].presumed);
    assert_eq!((bench.presumed(), bench.warm()), (1, vec![0]));
    let lease = Duration::from_millis(bench.patience_ms());
    let mut now = Instant::now();
    // A request that it refuses, or has answered before: not received, and nothing is wrong.
    bench.controller.applier.store_mut().loads[0].sent += 1;
    for _ in 0..20 {
        now += lease / 2;
        bench.next_load(0);
        bench.look(now);
        assert_eq!(bench.row(0).state(), WorkerState::Up);
    }
    bench.look(now + lease / 2);
    assert_eq!(bench.row(0).state(), WorkerState::Up, "one may be lost");
    bench.look(now + lease);
    assert_eq!(bench.row(0).state(), WorkerState::Down);
    assert_eq!((bench.presumed(), bench.warm()), (0, Vec::new()));
    assert!(!bench.controller.workers()[0].presumed);
}

#[test]
fn a_connection_that_the_workers_kernel_closes_is_its_end_whatever_comes() {
    let mut bench = Bench::new();
    let (connection, _) = bench.join("w0", "0-99");
    bench.next_load(0);
    bench.look(Instant::now());
    bench.next_load(0);
    bench.close(connection);
    assert_eq!(bench.row(0).state(), WorkerState::Down);
}

#[test]
fn silence_without_load_packets_is_death() {
    let mut bench = Bench::new();
    let (connection, _) = bench.join("w0", "0-99");
    bench.fall_silent(connection);
    assert_eq!(bench.row(0).state(), WorkerState::Down);
    // Of one whose packets stopped as its heartbeats did.
    let (connection, _) = bench.join("w0", "0-99");
    bench.next_load(0);
    let half = Duration::from_millis(bench.patience_ms() / 2);
    bench.look(Instant::now().checked_sub(half).unwrap());
    bench.fall_silent(connection);
    assert_eq!(bench.row(0).state(), WorkerState::Down);
    assert_eq!(bench.presumed(), 0);
}

#[test]
fn a_presumed_worker_that_receives_nothing_of_what_is_sent_to_it_is_down() {
    let (mut bench, _) = Bench::with_presumed();
    let tenth = Duration::from_millis(100);
    let mut now = Instant::now();
    let mut received = 0;
    for look in 0..40 {
        bench.controller.applier.store_mut().loads[0].sent += 5;
        if look < 20 {
            received += 4;
        }
        now += tenth;
        bench.next_load(received);
        bench.look(now);
        let is_up = bench.row(0).state() == WorkerState::Up;
        assert_eq!(is_up, look < 29, "at look {look}");
    }
}

#[test]
fn a_presumed_worker_that_connects_again_is_one_like_any_other() {
    let (mut bench, _) = Bench::with_presumed();
    let (connection, _) = bench.join("w0", "0-99");
    assert_eq!(bench.presumed(), 0);
    bench.look(Instant::now() + Duration::from_secs(5));
    assert_eq!(bench.row(0).state(), WorkerState::Up);
    bench.close(connection);
    assert_eq!(bench.row(0).state(), WorkerState::Down);
}

#[test]
fn after_a_restart_too_a_worker_that_cannot_connect_is_up_by_its_load_packets() {
    let mut bench = Bench::new();
    bench.join("w0", "0-99").1.unwrap();
    let mut bench = bench.restart();
    bench.next_load(0);
    bench.look(Instant::now());
    bench.next_load(0);
    bench.outwait_grace();
    assert_eq!(bench.row(0).state(), WorkerState::Up);
    assert_eq!(bench.presumed(), 1);
}
