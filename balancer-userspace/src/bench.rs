//! What the control plane costs with everything it can hold: the measurements of `cargo xtask bench control`.
//!
//! The controller and the kernel's maps are the real ones; functions, workers and heartbeats are made up, and nothing is
//! attached to an interface. "Visible" is when the write that a packet would meet has returned from the kernel.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits::SLOTS,
    maps::Affinity,
};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::{
    catalog::{Catalog, Function},
    config::{Config, ConfigError},
    controller::{Bench, PortsEvent, ProgramInfo, Start},
    mac::MacAddress,
    maps::{self, DataPlane, DetachError, KernelMaps, LoadError},
    membership::{
        protocol::{Heartbeat, SlotRange},
        server::ConnectionId,
        state::Identity,
    },
    metrics::Metrics,
    object::{ObjectError, object},
    ports::{Port, Ports, Subnet},
};

/// Why a measurement was not made.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The program cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no program.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The maps cannot be taken away again.
    #[error(transparent)]
    Detach(#[from] DetachError),
    /// The configuration of the measurement is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The maps cannot be read.
    #[error("cannot read the maps")]
    Read(#[source] Box<aya::maps::MapError>),
    /// The controller cannot start.
    #[error("the control plane cannot start: {0}")]
    Start(String),
}

/// Heartbeats that come at once, where some do.
const BURST: u32 = 10;

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Functions, each warm on up to four workers.
    pub functions: u32,
    /// Workers; the slots are shared out among them.
    pub workers: u16,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    /// Half of them are below.
    pub p50_ms: f64,
    /// Of a hundred, one is above.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// What was measured at one size.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How much there was.
    pub size: Size,
    /// From empty maps to the last write, in seconds.
    pub load_s: f64,
    /// From a change to its being in the kernel, by what changes.
    pub changes: HashMap<&'static str, Times>,
    /// CPU milliseconds of the control plane for each second, with LOAD packets going to the kernel: its look at all loads.
    pub load_packets_cpu_ms_per_s: f64,
    /// The same for heartbeats that say something new, 10,000 a second of them.
    pub heartbeats_cpu_ms_per_s: f64,
    /// The same when ten of a worker come at once.
    pub heartbeat_bursts_cpu_ms_per_s: f64,
    /// Memory of this process beyond what it had before, in MiB.
    pub process_mib: f64,
    /// Memory of the maps, by the kernel's own word, in MiB.
    pub maps_mib: f64,
}

/// Loads everything of `size` at `pin_path`, which must not exist, measures, and takes it away again.
///
/// # Errors
/// [`BenchError`].
pub fn measure(size: Size, pin_path: &Path, rounds: usize) -> Result<Report, BenchError> {
    let mut bed = Bed::new(size, pin_path)?;
    let result = bed.measure(rounds);
    drop(bed);
    maps::detach(pin_path)?;
    // What the controller keeps beside its socket.
    drop(std::fs::remove_file(pin_path.with_extension("state.json")));
    result
}

struct Bed {
    bench: Bench<KernelMaps>,
    size: Size,
    pin_path: PathBuf,
    rss_before: f64,
    connections: HashMap<u16, ConnectionId>,
    next: u64,
}

impl Bed {
    fn new(size: Size, pin_path: &Path) -> Result<Self, BenchError> {
        let rss_before = rss_mib();
        let state = pin_path.with_extension("sock");
        let text = format!(
            "pin_path = {pin_path:?}\nadmin_socket = {state:?}\ninterface = [{{ name = \"eth0\" }}]\n\
             [membership]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"/none\"\n\
             [[vip]]\naddress = \"10.99.0.1\"\nport = 9000\n"
        );
        let config = Config::parse(&text, Path::new("bench.toml"))?;
        let data_plane = DataPlane::open(object()?, pin_path, &config.limits)?;
        let maps = data_plane.maps()?;
        let start = Start {
            policy: config.policy(),
            revision: 0,
            key_secret: None,
            actual: maps
                .read()
                .map_err(|source| BenchError::Read(Box::new(source)))?,
            persisted: None,
            ports: ports(),
            catalog: None,
            metrics: Arc::new(
                Metrics::new().map_err(|error| BenchError::Start(error.to_string()))?,
            ),
            program: ProgramInfo::default(),
            table_rows: maps.table_rows(),
            config,
        };
        let bench =
            Bench::new(start, maps).map_err(|error| BenchError::Start(error.to_string()))?;
        Ok(Self {
            bench,
            size,
            pin_path: pin_path.to_owned(),
            rss_before,
            connections: HashMap::new(),
            next: 0,
        })
    }

    fn measure(&mut self, rounds: usize) -> Result<Report, BenchError> {
        let catalog = self.catalog();
        let warm = self.warm();
        let started = Instant::now();
        self.bench.settle();
        for number in 0..self.size.workers {
            self.join(number);
        }
        for (number, functions) in (0..).zip(&warm) {
            self.beat(number, 1, functions);
        }
        self.bench.catalog(catalog);
        self.bench.settle();
        let load_s = started.elapsed().as_secs_f64();
        let process_mib = rss_mib() - self.rss_before;
        Ok(Report {
            size: self.size,
            load_s,
            changes: self.changes(&warm, rounds),
            load_packets_cpu_ms_per_s: self.loads_cpu(),
            heartbeats_cpu_ms_per_s: self.heartbeats_cpu(&warm, 1),
            heartbeat_bursts_cpu_ms_per_s: self.heartbeats_cpu(&warm, BURST),
            process_mib,
            maps_mib: maps_mib(&self.pin_path),
        })
    }

    fn changes(&mut self, warm: &[Vec<FunctionId>], rounds: usize) -> HashMap<&'static str, Times> {
        let mut times: HashMap<&'static str, Vec<f64>> = HashMap::new();
        let mut note = |what, since: Instant| {
            let ms = since.elapsed().as_secs_f64() * 1e3;
            times.entry(what).or_default().push(ms);
        };
        for round in 0..rounds {
            let number = (round * 97 % usize::from(self.size.workers)) as u16;
            let all = &warm[usize::from(number)];
            let fewer = &all[..all.len() - 1];

            let since = Instant::now();
            self.beat(number, 2, fewer);
            self.bench.settle();
            note("warm set", since);
            self.beat(number, 2, all);
            self.bench.rest();

            let since = Instant::now();
            let function = FunctionId(u64::MAX - round as u64);
            self.bench.deploy(function, round.to_string());
            self.bench.settle();
            note("function deployed", since);

            let since = Instant::now();
            self.bench.drain(WorkerId(number), true);
            self.bench.settle();
            note("worker drained", since);
            self.bench.rest();
            self.bench.drain(WorkerId(number), false);
            self.bench.rest();

            let since = Instant::now();
            if let Some(connection) = self.connections.remove(&number) {
                self.bench.close(connection);
            }
            self.bench.urgent();
            note("worker lost: its row", since);
            self.bench.settle();
            note("worker lost: all tables", since);
            self.bench.rest();

            let since = Instant::now();
            self.join(number);
            self.bench.settle();
            note("worker joined", since);
            self.beat(number, 2, all);
            self.bench.rest();
        }
        times
            .into_iter()
            .map(|(what, times)| (what, quantiles(times)))
            .collect()
    }

    /// LOAD packets end in the program: what is left for us is to look at the rows ten times a second.
    fn loads_cpu(&mut self) -> f64 {
        let since = cpu_ms();
        for _ in 0..10 {
            self.bench.look_at_loads();
            self.bench.settle();
        }
        cpu_ms() - since
    }

    /// 10,000 heartbeats, the workers taking turns, each with `burst` of them.
    fn heartbeats_cpu(&mut self, warm: &[Vec<FunctionId>], burst: u32) -> f64 {
        let since = cpu_ms();
        for turn in 0..10_000 / burst {
            let number = (turn % u32::from(self.size.workers)) as u16;
            let round = turn / u32::from(self.size.workers);
            for beat in 0..burst {
                self.beat(number, (round + beat) % 8, &warm[usize::from(number)]);
            }
            self.bench.settle();
        }
        cpu_ms() - since
    }

    fn join(&mut self, number: u16) {
        self.next += 1;
        let share = SLOTS / u32::from(self.size.workers);
        let first = (u32::from(number) * share) as u16;
        let slots = if share == 0 {
            Vec::new()
        } else {
            vec![SlotRange {
                first,
                last: first + share as u16 - 1,
            }]
        };
        let [high, low] = number.to_be_bytes();
        let connection = ConnectionId::made_up(self.next);
        self.connections.insert(number, connection);
        self.bench.join(
            connection,
            Identity {
                name: format!("worker-{number}"),
                address: Ipv4Addr::new(10, 80, high, low),
                mac: MacAddress::new([2, 0, 0, 0, high, low]),
                address6: None,
                own_id: None,
                interface: None,
                slots,
                db_url: Some(format!("http://10.80.{high}.{low}:7200")),
            },
        );
    }

    fn beat(&mut self, number: u16, in_flight: u32, warm: &[FunctionId]) {
        let heartbeat = Heartbeat {
            in_flight,
            capacity: 256,
            warm: warm.to_vec(),
            draining: false,
            kept: Vec::new(),
        };
        if let Some(connection) = self.connections.get(&number) {
            self.bench.beat(*connection, heartbeat);
        }
    }

    fn catalog(&self) -> Catalog {
        let functions = (0..self.size.functions).map(|number| {
            let function = Function {
                qualified: format!("function-{number}@latest"),
                affinity: Affinity::None,
                schema: None,
            };
            (function_id(number), function)
        });
        Catalog {
            revision: Some(1),
            functions: functions.collect(),
            kept: Vec::new(),
        }
    }

    /// Each function on up to four workers, as evenly as can be, ascending.
    fn warm(&self) -> Vec<Vec<FunctionId>> {
        let workers = usize::from(self.size.workers);
        let mut warm = vec![Vec::new(); workers];
        for number in 0..self.size.functions {
            for copy in 0..4.min(workers) {
                let worker = (number as usize + copy * (workers / 4).max(1)) % workers;
                warm[worker].push(function_id(number));
            }
        }
        warm.iter_mut().for_each(|functions| {
            functions.sort_unstable();
            functions.dedup();
        });
        warm
    }
}

/// Spread as real ids are, and never 0.
const fn function_id(number: u32) -> FunctionId {
    FunctionId(ebpf_common::hash::mix64(number as u64 + 1))
}

fn ports() -> PortsEvent {
    PortsEvent {
        ports: Ports(vec![Port {
            name: "eth0".to_owned(),
            ifindex: 1,
            mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
            mtu: 1_500,
            subnets: vec![Subnet::new(
                Ipv4Addr::new(10, 80, 255, 254),
                Ipv4Addr::new(255, 255, 0, 0),
            )],
        }]),
        interfaces: Vec::new(),
    }
}

fn quantiles(mut times: Vec<f64>) -> Times {
    times.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| {
        let place = (times.len() as f64 * part).ceil() as usize;
        times.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
    };
    Times {
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
    }
}

/// Resident memory of this process.
fn rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|text| text.trim().trim_end_matches(" kB").trim().parse().ok())
        .unwrap_or(0.0);
    kib / 1024.0
}

/// CPU time of this process so far, user and system.
fn cpu_ms() -> f64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID);
    time.map_or(0.0, |time| {
        time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6
    })
}

/// What the kernel says that the pinned maps take.
fn maps_mib(pin_path: &Path) -> f64 {
    let bytes: u64 = maps::memory(pin_path).unwrap_or_default().iter().sum();
    bytes as f64 / (1024.0 * 1024.0)
}

impl<S: maps::MapStore> Bench<S> {
    fn deploy(&mut self, function: FunctionId, name: String) {
        self.with_catalog(|catalog| {
            let new = Function {
                qualified: name,
                affinity: Affinity::None,
                schema: None,
            };
            catalog.functions.insert(function, new);
        });
        self.touch(function);
    }

    fn join(&mut self, connection: ConnectionId, identity: Identity) {
        let (reply, _welcome) = oneshot::channel();
        self.hello(connection, identity, reply);
    }
}
