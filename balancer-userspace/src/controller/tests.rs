//! The controller over fake maps: events in, tables out.

use std::net::Ipv4Addr;

use ebpf_common::maps::{FunctionEntry, WorkerInfo, WorkerLoad};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::{
    mac::MacAddress,
    maps::fake::FakeMaps,
    membership::protocol::SlotRange,
    ports::{Port, Subnet},
    reconcile::tables::MapWrite,
};

const FUNCTION: &str = "hello@latest";

fn config(dir: &tempfile::TempDir) -> Config {
    let text = format!(
        r#"
        pin_path = "/sys/fs/bpf/none"
        admin_socket = "{}/balancer.sock"
        [membership]
        listen = "127.0.0.1:0"
        token_file = "/none"
        restart_grace_ms = 100
        [[interface]]
        name = "eth0"
        [[vip]]
        address = "10.99.0.1"
        port = 9000
        [[function]]
        name = "hello"
        "#,
        dir.path().display()
    );
    Config::parse(&text, std::path::Path::new("balancer.toml")).unwrap()
}

fn ports() -> PortsEvent {
    PortsEvent {
        ports: Ports(vec![Port {
            name: "eth0".to_owned(),
            ifindex: 2,
            mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
            mtu: 1500,
            subnets: vec![Subnet::new(
                Ipv4Addr::new(10, 80, 0, 2),
                Ipv4Addr::new(255, 255, 255, 0),
            )],
        }]),
        interfaces: Vec::new(),
    }
}

struct Bench {
    controller: Controller<FakeMaps>,
    dir: tempfile::TempDir,
    connections: u64,
}

impl Bench {
    fn new() -> Self {
        Self::start(tempfile::tempdir().unwrap(), ActualTables::fresh(), |_| {
            false
        })
    }

    fn start(dir: tempfile::TempDir, actual: ActualTables, refuse: fn(&MapWrite) -> bool) -> Self {
        let config = config(&dir);
        let start = Start {
            persisted: Persisted::read(&config.state_file()).unwrap(),
            catalog: Some(Catalog::of_config(&config.functions)),
            actual: actual.clone(),
            ports: ports(),
            metrics: Arc::new(Metrics::new().unwrap()),
            program: ProgramInfo::default(),
            table_rows: TableRows {
                sessions: 128,
                flows: 256,
                functions: 2048,
            },
            config,
        };
        let store = FakeMaps::new(actual, refuse);
        let mut bench = Self {
            controller: Controller::new(start, store).unwrap(),
            dir,
            connections: 0,
        };
        bench.settle();
        bench
    }

    /// A control plane that starts where this one was killed.
    fn restart(self) -> Self {
        let tables = self.controller.applier.actual().clone();
        let mut next = Self::start(self.dir, tables, |_| false);
        next.connections = self.connections;
        next
    }

    fn settle(&mut self) {
        if self.controller.is_dirty {
            self.controller.replan();
        }
        self.controller.applier.apply(Duration::MAX);
    }

    fn tables(&self) -> &ActualTables {
        self.controller.applier.actual()
    }

    fn join(&mut self, name: &str, slots: &str) -> (ConnectionId, Result<Welcome, String>) {
        self.join_from(name, slots, Ipv4Addr::new(10, 80, 0, 11))
    }

    fn join_from(
        &mut self,
        name: &str,
        slots: &str,
        address: Ipv4Addr,
    ) -> (ConnectionId, Result<Welcome, String>) {
        self.connections += 1;
        let connection = ConnectionId::test(self.connections);
        let (reply, mut answer) = oneshot::channel();
        let slots: SlotRange = slots.parse().unwrap();
        self.controller
            .handle(Event::Connection(ConnectionEvent::Hello {
                connection,
                identity: Identity {
                    name: name.to_owned(),
                    address,
                    mac: MacAddress::new([2, 0, 0, 0, 0, 0x11]),
                    interface: None,
                    slots: vec![slots],
                    db_url: Some(format!("http://{name}:7200")),
                },
                reply,
            }));
        self.settle();
        (connection, answer.try_recv().unwrap())
    }

    fn beat(&mut self, connection: ConnectionId, in_flight: u32, warm: &[FunctionId]) {
        let heartbeat = Heartbeat {
            in_flight,
            capacity: 8,
            warm: warm.to_vec(),
            draining: false,
        };
        self.controller
            .handle(Event::Connection(ConnectionEvent::Heartbeat {
                connection,
                heartbeat,
            }));
        self.settle();
    }

    fn close(&mut self, connection: ConnectionId) {
        self.controller
            .handle(Event::Connection(ConnectionEvent::Closed { connection }));
    }

    fn warm(&self) -> Vec<u16> {
        let entry: FunctionEntry = self.tables().functions[&FunctionId::of(FUNCTION).0];
        entry.warm[..usize::from(entry.warm_len)].to_vec()
    }

    fn row(&self, id: u16) -> WorkerInfo {
        self.tables().workers[usize::from(id)]
    }

    fn load(&mut self, id: u16) -> WorkerLoad {
        self.controller.applier.store_mut().loads[usize::from(id)]
    }

    fn home_has(&self, id: u16) -> bool {
        let live = self.tables().config.generation;
        self.tables().home_of(live).contains(&WorkerId(id))
    }
}

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
fn cookie_keys_are_made_once_and_kept_over_a_restart() {
    let bench = Bench::new();
    let keys = bench.tables().config.cookie_keys;
    assert_ne!(keys, [[0; 2]; 2]);
    assert_eq!(bench.restart().tables().config.cookie_keys, keys);
}

#[test]
fn a_closed_connection_takes_the_worker_out_before_any_table_is_made() {
    let mut bench = Bench::new();
    let (first, _) = bench.join("w0", "0-99");
    bench.join("w1", "100-199").1.unwrap();
    bench.close(first);
    // Only what replan does at once, with no slice of the plan.
    bench.controller.is_dirty = false;
    let rows = policy::worker_rows(&bench.controller.membership, &bench.controller.ports);
    let urgent = reconcile::urgent(&rows, bench.controller.applier.actual());
    assert!(
        matches!(urgent[..], [MapWrite::Worker(WorkerId(0), info)] if info.state() == WorkerState::Down)
    );
    bench.controller.is_dirty = true;
    bench.settle();
    assert_eq!(bench.row(0).state(), WorkerState::Down);
    assert!(!bench.home_has(0) && bench.home_has(1));
}

#[test]
fn the_slot_map_names_live_owners_and_its_version_only_grows() {
    let mut bench = Bench::new();
    let (first, welcome) = bench.join("w0", "0-99");
    let shared = welcome.unwrap().shared;
    bench.join("w1", "100-199").1.unwrap();
    let owners = |shared: &Shared| -> Vec<String> {
        shared
            .slots
            .iter()
            .map(|owner| format!("{} {}", owner.range, owner.worker))
            .collect()
    };
    let before = shared.borrow().clone();
    assert_eq!(owners(&before), ["0-99 w0", "100-199 w1"]);
    bench.close(first);
    bench.settle();
    let after = shared.borrow().clone();
    assert_eq!(owners(&after), ["100-199 w1"]);
    assert!(after.slots_version > before.slots_version);

    let restarted = bench.restart();
    let version = restarted.controller.shared.borrow().slots_version;
    assert!(version >= after.slots_version);
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

    let (until, _) = bench.controller.grace.clone().unwrap();
    while Instant::now() < until {
        std::thread::yield_now();
    }
    bench.controller.end_grace();
    bench.settle();
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
fn a_write_that_the_kernel_refuses_is_tried_again_and_flips_nothing() {
    let refuse: fn(&MapWrite) -> bool = |write| matches!(write, MapWrite::Home(..));
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(dir, ActualTables::fresh(), refuse);
    assert_eq!(bench.tables().config.generation, 0);
    assert!(bench.controller.applier.retry_at().is_some());
    assert!(bench.controller.metrics.write_errors.get() > 0);

    bench.controller.applier.store_mut().refuse = |_| false;
    bench.controller.is_dirty = true;
    bench.settle();
    assert_eq!(bench.tables().config.generation, 1);
    assert!(bench.controller.applier.retry_at().is_none());
}

#[test]
fn a_function_that_does_not_fit_keeps_nothing_else_back() {
    let refuse: fn(&MapWrite) -> bool = |write| matches!(write, MapWrite::Function(..));
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir, ActualTables::fresh(), refuse);
    assert_eq!(bench.tables().functions.len(), 0);
    assert_eq!(bench.tables().vips.len(), 2);
}

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

#[tokio::test]
async fn the_loop_carries_events_to_the_maps_and_stops_when_told() {
    let bench = Bench::new();
    let (stop, stopped) = watch::channel(false);
    let (connections, connection_events) = mpsc::channel(8);
    let (commands, command_events) = mpsc::channel(8);
    let (_, catalogs) = mpsc::channel(1);
    let (_, ports) = mpsc::channel(1);
    let events = Events {
        connections: connection_events,
        catalogs,
        ports,
        commands: command_events,
    };
    let task = tokio::spawn(bench.controller.run(events, stopped));
    let (reply, welcome) = oneshot::channel();
    let hello = ConnectionEvent::Hello {
        connection: ConnectionId::test(1),
        identity: Identity {
            name: "w0".to_owned(),
            address: Ipv4Addr::new(10, 80, 0, 11),
            mac: MacAddress::new([2, 0, 0, 0, 0, 0x11]),
            interface: None,
            slots: Vec::new(),
            db_url: None,
        },
        reply,
    };
    connections.send(hello).await.unwrap();
    welcome.await.unwrap().unwrap();
    loop {
        let (answer, status) = oneshot::channel();
        commands.send(Command::Status(answer)).await.unwrap();
        let status = status.await.unwrap();
        if status.workers_up == 1 && status.writes_pending == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    stop.send(true).unwrap();
    task.await.unwrap();
}

#[test]
fn vips_of_the_configuration_are_listed() {
    let bench = Bench::new();
    let vips = bench.controller.vips();
    assert_eq!(vips[0].address, "10.99.0.1:9000".parse().unwrap());
}
