//! The controller over fake maps: events in, tables out.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
};

use ebpf_common::maps::{FunctionEntry, WorkerInfo, WorkerLoad, WorkerState, name};
use proptest::prelude::*;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::{
    mac::MacAddress,
    maps::fake::FakeMaps,
    membership::{
        protocol::{Heartbeat, SlotRange},
        server::{ConnectionId, Welcome},
    },
    policy,
    ports::{Port, Subnet},
    reconcile::{self, tables::MapWrite},
};

mod orders;
mod schemas;

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
            policy: config.policy(),
            revision: 0,
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
    fn restart(mut self) -> Self {
        self.controller.save();
        self.controller.state_file.finish();
        let tables = self.controller.applier.actual().clone();
        let mut next = Self::start(self.dir, tables, |_| false);
        next.connections = self.connections;
        next
    }

    fn settle(&mut self) {
        self.controller.take_beats();
        if !self.controller.dirty.is_clean() {
            self.controller.replan();
        }
        self.controller.carry_on(Duration::MAX);
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
                    address6: None,
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
            kept: Vec::new(),
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
        self.tables().home_of(live, 0).contains(&WorkerId(id))
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
    assert_eq!(bench.row(0).state(), WorkerState::Down);
    assert!(bench.home_has(0), "the tables have not been made anew");
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
fn workers_are_told_what_to_keep_warm_and_take_over_from_one_that_goes() {
    let mut bench = Bench::new();
    let function = FunctionId::of("hello");
    let catalog = Catalog {
        kept: vec![(function, 3)],
        ..Catalog::default()
    };
    bench.controller.follow_catalog(catalog);
    assert!(bench.controller.shared.borrow().keep_warm.is_empty());
    let (first, _) = bench.join("a", "0-99");
    bench.join("b", "100-199").1.unwrap();
    let kept = |bench: &Bench| -> Vec<u32> {
        let shared = bench.controller.shared.borrow();
        let kept = shared.keep_warm.values().flatten();
        kept.map(|kept| kept.instances).collect()
    };
    let mut both = kept(&bench);
    both.sort_unstable();
    assert_eq!(both, [1, 2]);
    bench.close(first);
    bench.settle();
    assert_eq!(kept(&bench), [3]);
    bench.controller.follow_catalog(Catalog::default());
    assert!(kept(&bench).is_empty());
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
    bench.controller.applier.retries();
    bench.controller.dirty.rest = true;
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
    assert_eq!(bench.tables().vips.len(), 3, "port, mark and LOAD address");
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
            address6: None,
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
    assert_eq!(vips[0].address.to_string(), "10.99.0.1");
    assert_eq!((vips[0].port, vips[1].kind.as_str()), (9000, "load"));
}

/// Something that happens to a control plane.
#[derive(Debug, Clone)]
enum Happening {
    Join(u8, bool),
    Close(u8),
    Beat(u8, u32, Vec<u8>),
    Drain(u8, bool),
    Functions(Vec<u8>),
    Interface(bool),
    Policy(Vec<u8>, u16, bool),
    Keys,
    Slice,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let worker = 0u8..6;
    let functions = prop::collection::vec(0u8..8, 0..6);
    prop_oneof![
        4 => (worker.clone(), any::<bool>()).prop_map(|(worker, slots)| Happening::Join(worker, slots)),
        2 => worker.clone().prop_map(Happening::Close),
        4 => (worker.clone(), 0u32..9, functions.clone())
            .prop_map(|(worker, load, warm)| Happening::Beat(worker, load, warm)),
        1 => (worker.clone(), any::<bool>()).prop_map(|(worker, on)| Happening::Drain(worker, on)),
        2 => functions.prop_map(Happening::Functions),
        1 => any::<bool>().prop_map(Happening::Interface),
        2 => (prop::collection::vec(worker, 1..4), 1u16..600, any::<bool>())
            .prop_map(|(pool, weight, vip)| Happening::Policy(pool, weight, vip)),
        1 => Just(Happening::Keys),
        3 => Just(Happening::Slice),
    ]
}

fn qualified(number: u8) -> String {
    format!("f{number}@latest")
}

impl Bench {
    fn happen(&mut self, happening: Happening, connections: &mut HashMap<u8, ConnectionId>) {
        let controller = &mut self.controller;
        match happening {
            Happening::Join(worker, has_slots) => {
                self.connections += 1;
                let connection = ConnectionId::test(self.connections);
                let first = u16::from(worker) * 100;
                let slots = if has_slots {
                    vec![SlotRange {
                        first,
                        last: first + 150,
                    }]
                } else {
                    Vec::new()
                };
                let identity = Identity {
                    name: format!("w{worker}"),
                    address: Ipv4Addr::new(10, 80, 0, 11 + worker),
                    mac: MacAddress::new([2, 0, 0, 0, 0, 0x11]),
                    address6: None,
                    interface: None,
                    slots,
                    db_url: None,
                };
                controller.take_beats();
                if controller.join(connection, identity).is_ok() {
                    connections.insert(worker, connection);
                }
            }
            Happening::Close(worker) => {
                if let Some(connection) = connections.remove(&worker) {
                    let closed = ConnectionEvent::Closed { connection };
                    controller.handle(Event::Connection(closed));
                }
            }
            Happening::Beat(worker, in_flight, warm) => {
                if let Some(connection) = connections.get(&worker) {
                    let warm = warm
                        .iter()
                        .map(|number| FunctionId::of(&qualified(*number)));
                    let heartbeat = Heartbeat {
                        in_flight,
                        capacity: 8,
                        warm: warm.collect(),
                        draining: in_flight == 8,
                        kept: Vec::new(),
                    };
                    let beat = ConnectionEvent::Heartbeat {
                        connection: *connection,
                        heartbeat,
                    };
                    controller.handle(Event::Connection(beat));
                }
            }
            Happening::Drain(worker, is_drained) => {
                let (answer, _status) = oneshot::channel();
                let worker = format!("w{worker}");
                let drain = Command::Drain {
                    worker,
                    is_drained,
                    answer,
                };
                controller.handle(Event::Command(drain));
            }
            Happening::Functions(numbers) => {
                let functions: Vec<_> = numbers
                    .iter()
                    .map(|number| crate::config::StaticFunction {
                        name: qualified(*number),
                        affinity: store::AffinityKind::Session,
                        schema: None,
                    })
                    .collect();
                controller.handle(Event::Catalog(Catalog::of_config(&functions)));
            }
            Happening::Interface(is_there) => {
                let event = if is_there {
                    ports()
                } else {
                    PortsEvent::default()
                };
                controller.handle(Event::Ports(event));
            }
            Happening::Policy(pool, weight, has_vip) => {
                let pool: BTreeSet<u8> = pool.into_iter().collect();
                let names: Vec<String> =
                    pool.iter().map(|number| format!("\"w{number}\"")).collect();
                let mut text = format!(
                    "[[pool]]\nname = \"p{weight}\"\nworkers = [{}]\n[[worker]]\nname = \"w0\"\nweight = {weight}\n",
                    names.join(", ")
                );
                if has_vip {
                    text.push_str(&format!(
                        "[[vip]]\naddress = \"2001:db8::{weight:x}\"\nport = \"any\"\nkind = \"l4\"\npool = \"p{weight}\"\n"
                    ));
                }
                controller
                    .change_policy(toml::from_str(&text).unwrap(), false)
                    .unwrap();
            }
            Happening::Keys => controller.rotate_keys(),
            Happening::Slice => {
                controller.take_beats();
                if !controller.dirty.is_clean() {
                    controller.replan();
                }
                controller.carry_on(Duration::from_micros(20));
            }
        }
    }

    /// The writes by which the maps differ from what they should hold, all of it made anew.
    fn difference(&self) -> Vec<MapWrite> {
        let controller = &self.controller;
        let inputs = inputs!(controller);
        let rules = Arc::clone(&controller.rules);
        let mut homes = Homes::default();
        homes.pools_changed(&Rules::default(), &rules);
        for (id, _) in controller.membership.iter() {
            homes.set(id, inputs.taker(id), &rules);
        }
        homes.refresh(&rules);
        let slots = Slots::assign(&controller.membership);
        let desired = policy::desired(&inputs, &slots.owners, &homes);
        reconcile::plan(&desired, controller.applier.actual())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What is done by and by, as things happen, is what is right when all is made anew.
    #[test]
    fn changes_lead_to_the_same_tables_as_a_plan_from_scratch(
        happenings in prop::collection::vec(any_happening(), 1..40),
    ) {
        let mut bench = Bench::new();
        let mut connections = HashMap::new();
        for happening in happenings {
            bench.happen(happening, &mut connections);
        }
        bench.settle();
        prop_assert_eq!(bench.difference(), []);
    }
}

#[test]
fn no_cookie_breaks_over_a_rotation_of_the_keys() {
    use ebpf_common::cookie::CookieScope;
    let mut bench = Bench::new();
    let (_, welcome) = bench.join("w0", "0-99");
    let shared = welcome.unwrap().shared;
    let scope = CookieScope {
        function: FunctionId(9),
        session: 4,
    };
    for _ in 0..300 {
        // The worker seals with what it was told; the program opens with what it holds.
        let (epoch, keys) = {
            let shared = shared.borrow();
            (shared.key_epoch, shared.cookie_keys)
        };
        let told = ebpf_common::maps::Config {
            key_epoch: epoch.into(),
            cookie_keys: keys,
            ..ebpf_common::maps::Config::ZERO
        };
        let before = told.cookie_keys().seal(WorkerId(0), scope);
        bench.controller.rotate_keys();
        let held = bench.tables().config;
        assert_eq!(u32::from(epoch.wrapping_add(1)), held.key_epoch);
        assert_eq!(held.cookie_keys().open(before, scope), Ok(WorkerId(0)));
        let key_of = |keys: [[u64; 2]; 2]| keys[usize::from(epoch & 1)];
        assert_eq!(
            key_of(held.load_keys),
            key_of(shared.borrow().load.unwrap().keys)
        );
        assert_ne!(held.cookie_keys[0], held.cookie_keys[1]);
    }
}

#[test]
fn a_policy_that_makes_no_sense_changes_nothing_and_one_that_does_survives_a_restart() {
    let mut bench = Bench::new();
    let before = bench.tables().clone();
    let bad: PolicyFile = toml::from_str("[[worker]]\nname = \"w0\"\nweight = 0").unwrap();
    let error = bench.controller.change_policy(bad, false).unwrap_err();
    assert!(error.to_string().contains("worker \"w0\""), "{error}");
    let good = "[[vip]]\naddress = \"10.99.0.7\"\nport = 53\n[police]\nblock = [\"192.0.2.0/24\"]";
    let good: PolicyFile = toml::from_str(good).unwrap();
    let dry = bench.controller.change_policy(good.clone(), true).unwrap();
    assert!(
        dry.rows
            .iter()
            .any(|row| row.map == "BLOCK4" && row.after.is_some())
    );
    assert!(
        dry.rows
            .iter()
            .any(|row| row.map == "VIPS" && row.after.is_none())
    );
    bench.settle();
    assert_eq!(*bench.tables(), before, "a dry run writes nothing");

    let change = bench.controller.change_policy(good.clone(), false).unwrap();
    assert_eq!((change.revision, change.is_applied), (1, true));
    bench.settle();
    assert_eq!(bench.tables().blocks.len(), 1);
    let history = crate::history::History::new(bench.controller.config.policy_dir());
    let last = history
        .last(&crate::config::TunnelConfig::default())
        .unwrap();
    assert_eq!(last, Some((1, good)));
}
