//! Workers that join, go, are drained and come back.

use super::*;

#[test]
fn a_worker_that_joins_is_in_every_table() {
    let mut bench = Bench::new();
    let (connection, welcome) = bench.join("w0", "0-99");
    assert_eq!(welcome.unwrap().worker_id, 0);
    assert_eq!(bench.row(0).state(), WorkerState::Up);
    assert_eq!((bench.row(0).ifindex, bench.row(0).src_mac[5]), (2, 2));
    assert!(bench.home_has(0));
    let live = bench.tables().config.generation;
    assert_eq!(bench.tables().slots_of(live)[99], WorkerId(0));
    assert!(!bench.tables().slots_of(live)[100].is_some());
    bench.beat(connection, 3, &[FunctionId::of(FUNCTION)]);
    assert_eq!(bench.warm(), [0]);
    assert_eq!(bench.load(0).in_flight, 3);
}

#[test]
fn a_closed_connection_takes_the_worker_out_before_any_table_is_made() {
    let mut bench = Bench::new();
    let (first, _) = bench.join("w0", "0-99");
    bench.join("w1", "100-199").1.unwrap();
    bench.close(first);
    assert_eq!(bench.row(0).state(), WorkerState::Down);
    assert!(bench.home_has(0), "the tables have not been made anew");
    bench.settle();
    assert_eq!(bench.row(0).state(), WorkerState::Down);
    assert!(!bench.home_has(0) && bench.home_has(1));
}

#[test]
fn a_second_connection_of_the_same_worker_supersedes_the_first() {
    let mut bench = Bench::new();
    let (first, welcome) = bench.join("w0", "0-99");
    let superseded = welcome.unwrap().superseded;
    let (second, welcome) = bench.join("w0", "0-99");
    assert_eq!(welcome.unwrap().worker_id, 0);
    assert!(superseded.is_cancelled());
    bench.beat(first, 5, &[]);
    bench.close(first);
    bench.settle();
    assert_eq!(
        bench.row(0).state(),
        WorkerState::Up,
        "the first one's end says nothing"
    );
    bench.close(second);
    bench.settle();
    assert_eq!(bench.row(0).state(), WorkerState::Down);
}

/// It waited while the control plane started, its worker gave it up for another, and its turn came after that one's.
#[test]
fn an_earlier_connection_does_not_supersede_a_later_one() {
    let mut bench = Bench::new();
    bench.connections = 1;
    let (later, welcome) = bench.join("w0", "0-99");
    let superseded = welcome.unwrap().superseded;
    bench.connections = 0;
    let (earlier, welcome) = bench.join("w0", "0-99");
    assert!(earlier < later && welcome.is_err());
    bench.close(earlier);
    bench.settle();
    assert!(!superseded.is_cancelled());
    assert_eq!(bench.row(0).state(), WorkerState::Up);
    bench.close(later);
    bench.settle();
    assert_eq!(bench.row(0).state(), WorkerState::Down);
}

#[test]
fn a_drained_worker_keeps_its_row_and_slots_and_gets_nothing_new() {
    let mut bench = Bench::new();
    let (first, _) = bench.join("w0", "0-99");
    let (second, _) = bench.join("w1", "100-199");
    bench.beat(first, 0, &[FunctionId::of(FUNCTION)]);
    bench.beat(second, 0, &[FunctionId::of(FUNCTION)]);
    assert_eq!(bench.warm(), [0, 1]);

    let drain = |bench: &mut Bench, is_drained| {
        let (answer, mut status) = oneshot::channel();
        let worker = "w0".to_owned();
        bench.controller.handle(Event::Command(Command::Drain {
            worker,
            is_drained,
            answer,
        }));
        bench.settle();
        status.try_recv().unwrap().unwrap()
    };
    assert_eq!(drain(&mut bench, true).state, "draining");
    assert_eq!(bench.row(0).state(), WorkerState::Draining);
    assert_eq!(bench.warm(), [1]);
    assert!(!bench.home_has(0));
    let live = bench.tables().config.generation;
    assert_eq!(bench.tables().slots_of(live)[0], WorkerId(0));
    assert_eq!(drain(&mut bench, false).state, "up");
    assert_eq!(bench.warm(), [0, 1]);
}

#[test]
fn after_a_restart_known_workers_stay_up_until_their_grace_is_over() {
    let mut bench = Bench::new();
    let (first, _) = bench.join("w0", "0-99");
    bench.join("w1", "100-199").1.unwrap();
    bench.beat(first, 3, &[FunctionId::of(FUNCTION)]);
    let before = bench.tables().clone();

    let mut bench = bench.restart();
    assert_eq!(*bench.tables(), before, "a restart writes nothing");
    assert_eq!(
        bench.warm(),
        [0],
        "and the warm set is known from the map itself"
    );
    let (_, welcome) = bench.join("w1", "100-199");
    assert_eq!(welcome.unwrap().worker_id, 1);

    bench.outwait_grace();
    assert_eq!(
        bench.row(0).state(),
        WorkerState::Down,
        "it did not come back"
    );
    assert_eq!(bench.row(1).state(), WorkerState::Up);
}

#[test]
fn a_worker_that_no_interface_reaches_is_refused() {
    let mut bench = Bench::new();
    let (_, welcome) = bench.join_from("w0", "0-99", Ipv4Addr::new(192, 0, 2, 1));
    assert!(welcome.unwrap_err().contains("no subnet"));
}

#[test]
fn an_interface_made_anew_changes_every_row() {
    let mut bench = Bench::new();
    bench.join("w0", "0-99").1.unwrap();
    let mut event = ports();
    event.ports.0[0].ifindex = 9;
    bench.controller.handle(Event::Ports(event));
    bench.settle();
    assert_eq!(bench.row(0).ifindex, 9);
    assert_eq!(bench.tables().ports.iter().collect::<Vec<_>>(), [&9]);
    bench.controller.handle(Event::Ports(PortsEvent::default()));
    bench.settle();
    assert_eq!(bench.row(0).state(), WorkerState::Down);
}

#[test]
fn a_worker_that_gets_the_id_of_another_does_not_get_its_slots() {
    let mut bench = Bench::new();
    let (connection, _) = bench.join("w0", "0-99");
    for number in 1..ebpf_common::limits::MAX_WORKERS {
        let identity = identity(format!("w{number}"));
        bench.controller.membership.join(identity).unwrap();
    }
    bench.close(connection);
    bench.settle();
    let (reply, mut answer) = oneshot::channel();
    bench
        .controller
        .handle(Event::Connection(ConnectionEvent::Hello {
            connection: ConnectionId::test(9_999),
            identity: identity("late"),
            reply,
        }));
    bench.settle();
    assert_eq!(answer.try_recv().unwrap().unwrap().worker_id, 0);
    assert_eq!(bench.row(0).state(), WorkerState::Up);
    let live = bench.tables().config.generation;
    assert!(!bench.tables().slots_of(live)[0].is_some());
}
