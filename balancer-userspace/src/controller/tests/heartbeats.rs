//! Heartbeats: which of them are taken in, and when.

use ebpf_common::maps::name;

use super::*;

#[test]
fn a_heartbeat_that_changes_only_the_load_writes_one_row() {
    let mut bench = Bench::new();
    let (connection, _) = bench.join("w0", "0-99");
    bench.beat(connection, 1, &[]);
    let writes = bench.controller.metrics.writes();
    bench.beat(connection, 2, &[]);
    assert_eq!(bench.controller.metrics.writes(), writes + 1);
    bench.beat(connection, 2, &[]);
    assert_eq!(bench.controller.metrics.writes(), writes + 1);
}

#[test]
fn of_a_burst_of_heartbeats_the_last_of_each_worker_leads_to_one_plan() {
    const ROUNDS: u32 = 50;
    let mut bench = Bench::new();
    let connections = [("w0", "0-99"), ("w1", "100-199")].map(|(name, slots)| {
        let (connection, _) = bench.join(name, slots);
        connection
    });
    let counts = |bench: &Bench| {
        let metrics = &bench.controller.metrics;
        let loads = metrics.map_writes.with_label_values(&[name::WORKER_LOAD]);
        (metrics.plan_seconds.get_sample_count(), loads.get())
    };
    let (plans, loads) = counts(&bench);
    for round in 0..ROUNDS {
        for connection in connections {
            // Every second one says the opposite of the one before.
            let is_odd = round % 2 == 1;
            let warm = is_odd.then(|| FunctionId::of(FUNCTION));
            let heartbeat = Heartbeat {
                in_flight: round,
                capacity: 64,
                warm: warm.into_iter().collect(),
                draining: is_odd && connection == connections[0],
                kept: Vec::new(),
            };
            let beat = ConnectionEvent::Heartbeat {
                connection,
                heartbeat,
            };
            bench.controller.handle(Event::Connection(beat));
        }
    }
    bench.settle();
    assert_eq!(counts(&bench), (plans + 1, loads + 2));
    assert_eq!(bench.row(0).state(), WorkerState::Draining);
    assert_eq!(bench.row(1).state(), WorkerState::Up);
    assert_eq!(bench.warm(), [1]);
    assert_eq!(bench.load(1).in_flight, ROUNDS - 1);
    let metrics = &bench.controller.metrics;
    let of_each = u64::from(ROUNDS);
    assert_eq!(metrics.heartbeats.get(), 2 * of_each);
    assert_eq!(metrics.heartbeats_overtaken.get(), 2 * (of_each - 1));
}

#[test]
fn what_a_worker_said_before_something_else_happened_is_taken_in_before_it() {
    let mut bench = Bench::new();
    let (connection, _) = bench.join("w0", "0-99");
    let heartbeat = Heartbeat {
        in_flight: 3,
        capacity: 8,
        warm: vec![FunctionId::of(FUNCTION)],
        draining: false,
        kept: Vec::new(),
    };
    let beat = ConnectionEvent::Heartbeat {
        connection,
        heartbeat,
    };
    bench.controller.handle(Event::Connection(beat));
    bench.close(connection);
    bench.settle();
    // Taken in afterwards, it would be a heartbeat of nobody's, and the row would have no load.
    assert_eq!(bench.load(0).in_flight, 3);
    assert_eq!(bench.warm(), [0; 0]);
}
