//! The warm rule against round robin and random choice, in turn, with the same requests.
//!
//! All three take the same way through the same program, in the kernel: for round robin and random choice the client names the worker
//! by a valid route cookie. So only the choice differs.

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ebpf_common::maps::Counter;
use occasion::Occasion;

use crate::{
    client::{self, Policy, Traffic},
    report::{self, Measured, Report},
    scene::Scene,
    worker::{PARALLEL, Worker},
};

/// The last one is four times slower.
const SLOWER: [u32; 3] = [1, 1, 4];

/// Latency with one slow worker of three.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Requests per second, as percentages of what the three workers can serve together.
    #[arg(long, value_delimiter = ',', default_values_t = [20, 30, 70])]
    loads: Vec<u32>,
    /// How often each policy has its turn.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Mean time of a request at the fast workers, in microseconds.
    #[arg(long, default_value_t = 4_000)]
    mean_us: u64,
    /// Where requests and times are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the figures as JSON to this file, and as Markdown beside it.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Measures, prints a table, and checks what the packets say of themselves.
pub(crate) fn run(args: &Args) -> Result<()> {
    let occasion = Occasion::begin();
    let scene = Scene::build(SLOWER.len() as u8)?;
    let mean = Duration::from_micros(args.mean_us);
    let mut workers = Vec::new();
    for ((id, host), slower) in (0..).zip(&scene.topology.workers).zip(SLOWER) {
        workers.push(Worker::start(host, mean * slower, scene.assignment(id)?)?);
    }
    wait_reported(&scene)?;
    let bench = Bench {
        args,
        scene: &scene,
        workers: &workers,
    };
    let mut report = Report::new(args.mean_us, PARALLEL, SLOWER, args.seconds, args.rounds);
    for load in &args.loads {
        // In turn, so that whatever else the machine does hits all three.
        for round in 0..args.rounds {
            for policy in Policy::ALL {
                report.add(*load, policy, bench.measure(*load, policy, round)?);
            }
        }
    }
    for worker in workers {
        worker.stop()?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", report.table())?;
    report.check()?;
    if let Some(path) = &args.report {
        report::write(path, occasion, &report.json()?, &report.table())?;
    }
    Ok(())
}

struct Bench<'a> {
    args: &'a Args,
    scene: &'a Scene,
    workers: &'a [Worker],
}

impl Bench<'_> {
    fn measure(&self, load: u32, policy: Policy, round: u32) -> Result<Measured> {
        let per_second: f64 = SLOWER
            .iter()
            .map(|slower| PARALLEL as f64 * 1e6 / (self.args.mean_us as f64 * f64::from(*slower)))
            .sum();
        let config = self.scene.tables.config.context("a configuration")?;
        let traffic = Traffic {
            policy,
            per_second: per_second * f64::from(load) / 100.0,
            time: Duration::from_secs(self.args.seconds),
            seed: self.args.seed * 1_000 + u64::from(round),
            workers: SLOWER.len() as u16,
            keys: config.cookie_keys(),
        };
        let before = self.now()?;
        let answers = client::run(&self.scene.topology.client, &traffic)?;
        let after = self.now()?;
        let moved = |counter| {
            let of = |state: &State| state.counters.get(&counter).copied().unwrap_or(0);
            of(&after) - of(&before)
        };
        let rule = match policy {
            Policy::Warm => Counter::RouteWarm,
            Policy::RoundRobin | Policy::Random => Counter::RouteCookie,
        };
        ensure!(
            moved(rule) == answers.sent && answers.lost == 0,
            "{}: {} of {} requests were placed by {rule:?}, {} lost",
            policy.name(),
            moved(rule),
            answers.sent,
            answers.lost
        );
        let load_packets = after.load_packets - before.load_packets;
        ensure!(
            moved(Counter::DropLoadForged) + moved(Counter::DropLoadUnknown) == 0
                && moved(Counter::ConsumeLoad) > 0,
            "LOAD packets were not taken in"
        );
        let by_worker = after.answered.iter().zip(&before.answered);
        Ok(Measured {
            latencies: answers.latencies,
            by_worker: by_worker.map(|(after, before)| after - before).collect(),
            load_packets,
            load_taken_in: moved(Counter::ConsumeLoad),
        })
    }

    fn now(&self) -> Result<State> {
        Ok(State {
            counters: self.scene.program.counters()?,
            answered: self.workers.iter().map(Worker::answered).collect(),
            load_packets: self.workers.iter().map(Worker::load_packets).sum(),
        })
    }
}

struct State {
    counters: BTreeMap<Counter, u64>,
    answered: Vec<u64>,
    load_packets: u64,
}

/// Waits for the first LOAD packet of each worker.
fn wait_reported(scene: &Scene) -> Result<()> {
    testbed::wait::until("the first LOAD packets", Duration::from_secs(10), || {
        for id in scene.tables.workers.keys() {
            if scene.program.load_of(*id)?.capacity == 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}
