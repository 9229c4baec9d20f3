//! The controller over fake maps: events in, tables out.

use std::net::Ipv4Addr;

use ebpf_common::maps::{FunctionEntry, WorkerInfo, WorkerLoad, WorkerState};
use tokio::sync::oneshot;

use super::*;
use crate::{
    mac::MacAddress,
    maps::fake::FakeMaps,
    membership::{
        protocol::{Heartbeat, SlotRange},
        server::{ConnectionId, Welcome},
    },
    ports::{Port, Subnet},
    reconcile::tables::MapWrite,
};

mod events;
mod happenings;
mod heartbeats;
mod keys;
mod loads;
mod orders;
mod policies;
mod presumed;
mod schemas;
mod shared;
mod workers;
mod writes;

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

/// How the worker `name` introduces itself: without slots and without a database.
fn identity(name: impl Into<String>) -> Identity {
    Identity {
        name: name.into(),
        address: Ipv4Addr::new(10, 80, 0, 11),
        mac: MacAddress::new([2, 0, 0, 0, 0, 0x11]),
        address6: None,
        own_id: None,
        interface: None,
        slots: Vec::new(),
        db_url: None,
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
        Self::start_with(dir, actual, refuse, None)
    }

    /// With keys of `secret`, if there is one.
    fn start_with(
        dir: tempfile::TempDir,
        actual: ActualTables,
        refuse: fn(&MapWrite) -> bool,
        key_secret: Option<KeySecret>,
    ) -> Self {
        let mut config = config(&dir);
        if key_secret.is_some() {
            // No epoch ends while a test runs, whatever the time of day.
            config.keys.rotate_s = u32::MAX;
        }
        let start = Start {
            policy: config.policy(),
            revision: 0,
            key_secret,
            persisted: Persisted::read(&config.state_file()).unwrap(),
            catalog: Some(Catalog::of_config(&config.functions)),
            actual: actual.clone(),
            ports: ports(),
            metrics: Arc::new(Metrics::new().unwrap()),
            program: ProgramInfo {
                adopted: actual.config.table_secret != [0; 2],
                ..ProgramInfo::default()
            },
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
        bench.controller.grace.begin(Instant::now());
        bench
    }

    /// A control plane that starts where this one was killed.
    fn restart(mut self) -> Self {
        self.controller.save();
        self.controller.state_file.finish();
        let tables = self.controller.applier.actual().clone();
        let secret = self.controller.key_secret.clone();
        let mut next = Self::start_with(self.dir, tables, |_| false, secret);
        next.connections = self.connections;
        next
    }

    /// Waits until the workers of before have had their time, and does what follows.
    fn outwait_grace(&mut self) {
        while self.controller.grace.until().is_some() {
            std::thread::yield_now();
            self.controller.end_grace();
        }
        self.settle();
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
        let slots: SlotRange = slots.parse().unwrap();
        self.join_with(Identity {
            address,
            slots: vec![slots],
            db_url: Some(format!("http://{name}:7200")),
            ..identity(name)
        })
    }

    fn join_with(&mut self, identity: Identity) -> (ConnectionId, Result<Welcome, String>) {
        self.connections += 1;
        let connection = ConnectionId::test(self.connections);
        let (reply, mut answer) = oneshot::channel();
        self.controller
            .handle(Event::Connection(ConnectionEvent::Hello {
                connection,
                identity,
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
            .handle(Event::Connection(ConnectionEvent::Closed {
                connection,
                is_silent: false,
            }));
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
