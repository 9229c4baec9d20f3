//! Rows of `WORKER_LOAD`: whose word counts when LOAD packets stop, come again, or are another's.

use super::*;

impl Bench {
    /// The program takes a LOAD packet of worker `id` in.
    fn load_packet(&mut self, id: u16, sequence: u64, in_flight: u32) {
        let load = &mut self.controller.applier.store_mut().loads[usize::from(id)];
        assert!(sequence > load.sequence, "the program refuses it as stale");
        *load = WorkerLoad {
            sequence,
            sent_at_report: load.sent,
            in_flight,
            capacity: 8,
            ..*load
        };
    }

    /// The program sends requests to worker `id`.
    fn requests(&mut self, id: u16, number: u64) {
        self.controller.applier.store_mut().loads[usize::from(id)].sent += number;
    }

    fn silences(&self) -> u64 {
        self.controller.metrics.load_silences.get()
    }
}

#[test]
fn a_worker_whose_load_packets_stop_is_as_busy_as_its_heartbeats_say() {
    let mut bench = Bench::new();
    let (connection, _) = bench.join("w0", "0-99");
    bench.beat(connection, 1, &[]);
    bench.load_packet(0, 7, 2);
    let start = Instant::now();
    let after = |ms| start + Duration::from_millis(ms);
    bench.controller.look_at_loads(start);
    bench.requests(0, 100);
    bench.beat(connection, 1, &[]);
    bench.controller.look_at_loads(after(900));
    assert_eq!(bench.load(0).in_flight_now(), 102, "packets may be lost");
    bench.controller.look_at_loads(after(1000));
    assert_eq!(bench.load(0).in_flight_now(), 1);
    assert_eq!(bench.controller.workers()[0].in_flight, 1);
    assert_eq!(bench.silences(), 1);

    // From here on each heartbeat counts, and no request that was sent.
    bench.requests(0, 100);
    bench.beat(connection, 3, &[]);
    assert_eq!(bench.load(0).in_flight_now(), 3);
    // Of a clock that was set back: any number is news.
    bench.load_packet(0, 5, 4);
    bench.beat(connection, 1, &[]);
    bench.controller.look_at_loads(after(2500));
    assert_eq!(bench.load(0).in_flight_now(), 4);
    assert_eq!(bench.load(0).sent, 200);
    assert_eq!(bench.silences(), 1);
}

#[test]
fn a_worker_whose_load_packets_come_is_never_silent() {
    let mut bench = Bench::new();
    let (connection, _) = bench.join("w0", "0-99");
    bench.beat(connection, 1, &[]);
    let start = Instant::now();
    for second in 0..10 {
        bench.load_packet(0, 7 + second, 2);
        bench
            .controller
            .look_at_loads(start + Duration::from_secs(second));
    }
    assert_eq!((bench.load(0).in_flight_now(), bench.silences()), (2, 0));
}

#[test]
fn a_silent_worker_that_only_has_its_sessions_left_is_looked_at_too() {
    let mut bench = Bench::new();
    let (connection, _) = bench.join("w0", "0-99");
    bench.beat(connection, 1, &[]);
    bench.load_packet(0, 7, 2);
    let (answer, _status) = oneshot::channel();
    bench.controller.handle(Event::Command(Command::Drain {
        worker: "w0".to_owned(),
        is_drained: true,
        answer,
    }));
    bench.settle();
    assert!(bench.controller.deadline().is_some());
    let start = Instant::now();
    bench.controller.look_at_loads(start);
    bench.requests(0, 100);
    bench
        .controller
        .look_at_loads(start + Duration::from_secs(1));
    assert_eq!(bench.load(0).in_flight_now(), 1);
}

#[test]
fn a_worker_that_connects_again_may_begin_with_any_number() {
    let mut bench = Bench::new();
    let (first, _) = bench.join("w0", "0-99");
    bench.beat(first, 1, &[]);
    bench.load_packet(0, 1_000, 2);
    bench.requests(0, 100);
    bench.close(first);
    let (second, _) = bench.join("w0", "0-99");
    let load = bench.load(0);
    assert_eq!((load.sequence, load.in_flight_now()), (0, 2));
    assert_eq!((load.capacity, load.sent), (8, 100));
    bench.beat(second, 1, &[]);
    assert_eq!(bench.load(0).in_flight_now(), 1);
    bench.load_packet(0, 7, 3);
    // Without its connection having been closed.
    let (third, _) = bench.join("w0", "0-99");
    assert_eq!(bench.load(0).in_flight_now(), 3);
    bench.beat(third, 1, &[]);
    assert_eq!(bench.load(0).in_flight_now(), 1);
}

#[test]
fn a_static_worker_is_never_full_whoever_had_its_row() {
    let mut bench = Bench::new();
    let (connection, _) = bench.join("w0", "0-99");
    bench.beat(connection, 1, &[]);
    bench.load_packet(0, 7, 2);
    let identity = identity("w0");
    bench
        .controller
        .membership
        .set_static(vec![identity])
        .unwrap();
    bench.controller.reset_static_loads();
    bench.requests(0, 100);
    let load = bench.load(0);
    assert_eq!((load.in_flight_now(), load.capacity), (0, u32::MAX));
}
