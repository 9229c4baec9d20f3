//! A warm function: latency and requests a second, by the way a request comes: within the worker's process, over UDP as
//! an RPC, over HTTP through the gateway.
//!
//! Two kinds of load. A *closed* one of n: n callers, each of whom asks again when it has been answered; it says what the
//! worker can do. An *open* one: requests at a fixed rate on average, with exponential gaps, whatever the answers do, and
//! latency counts from the moment that a request was due; it says what a caller meets.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ::tests::pool::{PoolBed, free_address, reply};
use anyhow::{Context as _, Result};
use nix::sys::prctl::set_timerslack;
use prometheus::Registry;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use store::{Catalog, CatalogEntry};
use tokio::sync::watch;
use warmpath_sdk::{Call, Client, ClientConfig};
use worker::{
    catalog::Functions,
    identity::Identity,
    load::Load as WorkerLoad,
    metrics::RpcMetrics,
    park::ParkLimits,
    pool::Pool,
    rpc::{Parts, RpcLimits, Server},
};

use crate::{
    Scope,
    pools::{Imports, event, keep_warm},
    row::Row,
    say,
};

const ROUNDS: usize = 8;
/// Of each load in each round.
const TURN: Duration = Duration::from_millis(1_000);
const SEED: u64 = 4;
const WARM_UP: usize = 200;

/// How a request comes to the worker.
#[derive(Clone)]
enum Way {
    Unix(Arc<PoolBed>, Arc<CatalogEntry>),
    Udp(Client),
    Http(reqwest::Client, String),
}

impl Way {
    const fn name(&self) -> &'static str {
        match self {
            Self::Unix(..) => "unix",
            Self::Udp(_) => "udp",
            Self::Http(..) => "http",
        }
    }

    async fn ask(&self) -> Result<()> {
        match self {
            Self::Unix(bed, function) => {
                let outcome = bed.call(function, &event()).await;
                reply(&outcome).map(drop)
            }
            Self::Udp(client) => {
                let call = Call::new("hello").payload(event().to_string());
                let response = client.call(call).await.context("calling by UDP")?;
                anyhow::ensure!(!response.payload.is_empty(), "an empty answer");
                Ok(())
            }
            Self::Http(client, url) => {
                let request = client.post(url).body(event().to_string());
                let response = request.send().await?.error_for_status()?;
                response.bytes().await?;
                Ok(())
            }
        }
    }
}

/// What is offered.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Load {
    /// So many callers.
    Closed(usize),
    /// So many requests a second.
    Open(u32),
}

impl Load {
    const ALL: [Self; 4] = [
        Self::Closed(1),
        Self::Closed(16),
        Self::Open(500),
        Self::Open(2_000),
    ];

    fn name(self) -> String {
        match self {
            Self::Closed(callers) => format!("closed {callers}"),
            Self::Open(rate) => format!("open {rate}/s"),
        }
    }
}

/// One row of latency and one of rates.
struct Contender {
    way: Way,
    load: Load,
    case: String,
    latencies: Vec<f64>,
    rates: Vec<f64>,
}

/// Measures what was asked for.
pub(crate) async fn rows(scope: &Scope) -> Result<Vec<Row>> {
    let names = ["unix", "udp", "http"];
    let case = |way: &str, load: Load| format!("warm/{way}/{}", load.name());
    let is_asked = names
        .iter()
        .any(|way| Load::ALL.iter().any(|load| scope.has(&case(way, *load))));
    if !is_asked {
        return Ok(Vec::new());
    }
    let place = Place::start(scope).await?;
    let mut contenders: Vec<_> = place
        .ways
        .iter()
        .flat_map(|way| Load::ALL.map(|load| (way, load)))
        .map(|(way, load)| Contender {
            way: way.clone(),
            load,
            case: case(way.name(), load),
            latencies: Vec::new(),
            rates: Vec::new(),
        })
        .filter(|contender| scope.has(&contender.case))
        .collect();
    let rounds = scope.rounds(ROUNDS);
    say(&format!(
        "warm: {} cases, {rounds} rounds",
        contenders.len()
    ));
    for round in 0..rounds {
        for contender in &mut contenders {
            for _ in 0..WARM_UP {
                contender.way.ask().await?;
            }
            let turn = turn(&contender.way, contender.load, round as u64).await;
            let (latencies, rate) =
                turn.with_context(|| format!("measuring {}", contender.case))?;
            contender.latencies.extend(latencies);
            contender.rates.push(rate);
        }
    }
    let mut rows = Vec::new();
    for contender in contenders {
        let Contender {
            case,
            latencies,
            rates,
            load,
            ..
        } = contender;
        let rate =
            matches!(load, Load::Closed(_)).then(|| Row::of(format!("{case}, rate"), "1/s", rates));
        rows.extend(Row::of(case, "us", latencies));
        rows.extend(rate.flatten());
    }
    place.stop().await?;
    Ok(rows)
}

/// One turn of one load: microseconds of each request, and requests a second.
async fn turn(way: &Way, load: Load, round: u64) -> Result<(Vec<f64>, f64)> {
    let start = Instant::now();
    let latencies = match load {
        Load::Closed(callers) => closed(way, callers).await?,
        Load::Open(rate) => open(way, rate, SEED + round).await?,
    };
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    Ok((latencies, rate))
}

async fn closed(way: &Way, callers: usize) -> Result<Vec<f64>> {
    let end = Instant::now() + TURN;
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let way = way.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let start = Instant::now();
                    way.ask().await?;
                    latencies.push(us(start.elapsed()));
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    Ok(all)
}

async fn open(way: &Way, rate: u32, seed: u64) -> Result<Vec<f64>> {
    let schedule = schedule(rate, seed);
    let (way, runtime) = (way.clone(), tokio::runtime::Handle::current());
    // A thread of its own keeps the time: the timers of the runtime are a millisecond coarse.
    let tasks = tokio::task::spawn_blocking(move || {
        set_timerslack(1).context("asking for exact timers")?;
        let start = Instant::now();
        let mut tasks = Vec::with_capacity(schedule.len());
        for due in schedule {
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            let (way, at) = (way.clone(), start + due);
            tasks.push(runtime.spawn(async move {
                way.ask().await?;
                anyhow::Ok(us(at.elapsed()))
            }));
        }
        anyhow::Ok(tasks)
    });
    let mut all = Vec::new();
    for task in tasks.await?? {
        all.push(task.await??);
    }
    Ok(all)
}

/// When the requests of one turn are due: exponential gaps, `rate` a second on average.
fn schedule(rate: u32, seed: u64) -> Vec<Duration> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut due = Duration::ZERO;
    let mut all = Vec::new();
    while due < TURN {
        all.push(due);
        let uniform: f64 = random.random_range(f64::EPSILON..1.0);
        due += Duration::from_secs_f64(-uniform.ln() / f64::from(rate));
    }
    all
}

pub(crate) fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A worker with one function, and the ways to it.
struct Place {
    bed: Arc<PoolBed>,
    ways: Vec<Way>,
    stop: watch::Sender<bool>,
    gateway: tokio::task::JoinHandle<Result<(), gateway::RunError>>,
}

impl Place {
    async fn start(scope: &Scope) -> Result<Self> {
        let bed = PoolBed::start(|config| {
            scope.fit(config);
            keep_warm(config);
        })
        .await?;
        let bed = Arc::new(bed);
        let code = Imports::None.code();
        let function = bed.deploy("hello", &code, "memory_mb = 64").await?;
        let (_server, vip) = serve_rpc(&bed, &function)?;
        let http = free_address()?;
        let config = format!("listen = \"{http}\"\nvip = \"{vip}\"\n");
        let path = bed.dir.path().join("gateway.toml");
        std::fs::write(&path, config)?;
        let config = gateway::Config::load(&path)?;
        let (stop, stopped) = watch::channel(false);
        let gateway = tokio::spawn(gateway::run(config, stopped));
        let ways = vec![
            Way::Unix(Arc::clone(&bed), function),
            Way::Udp(Client::connect(vip, ClientConfig::default())?),
            Way::Http(reqwest::Client::new(), format!("http://{http}/run/hello")),
        ];
        let place = Self {
            bed,
            ways,
            stop,
            gateway,
        };
        place.until_served().await?;
        Ok(place)
    }

    /// The gateway listens when its task has run for a moment.
    async fn until_served(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        for way in &self.ways {
            loop {
                match way.ask().await {
                    Ok(()) => break,
                    Err(error) if Instant::now() > deadline => return Err(error),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        }
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.stop.send_replace(true);
        drop(self.ways);
        self.gateway.await?.context("stopping the gateway")?;
        // The RPC server keeps the pool, not the bed.
        self.bed.pool.stop().await;
        Ok(())
    }
}

/// The RPC server in front of a pool with one function, and its address.
pub(crate) fn serve_rpc(
    bed: &PoolBed,
    function: &Arc<CatalogEntry>,
) -> Result<(Arc<Server<Arc<Pool>>>, SocketAddr)> {
    let catalog = Catalog {
        revision: 1,
        entries: vec![CatalogEntry {
            // Callers name it without a version.
            id: ebpf_common::ids::FunctionId::of(&function.name),
            ..CatalogEntry::clone(function)
        }],
    };
    let parts = Parts {
        invoker: Arc::clone(&bed.pool),
        functions: Arc::new(Functions::fixed(catalog)),
        identity: Arc::new(Identity::unassigned()),
        load: Arc::new(WorkerLoad::new(1_000)),
        metrics: RpcMetrics::register(&Registry::new())?,
        feeds: Arc::clone(&bed.feeds),
        park: ParkLimits::default(),
    };
    let server = Server::new(parts, RpcLimits::default());
    let (address, _task) = server.listen("127.0.0.1:0".parse()?)?;
    Ok((server, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_load_comes_at_its_rate_on_average_and_the_same_each_time() {
        let due = schedule(2_000, SEED);
        assert!((1_850..2_150).contains(&due.len()), "{}", due.len());
        assert!(due.is_sorted() && due.iter().all(|at| *at < TURN));
        assert_eq!(due, schedule(2_000, SEED));
        assert_ne!(due, schedule(2_000, SEED + 1));
    }
}
