//! `bench live`: packets per second through the attached program, all in one core's softirq, beside the floors.
//!
//! ```text
//!   generator ──▶ veth ──▶ program under test ──┐
//!   sink      ◀── veth ◀──────── XDP_TX ────────┘
//! ```
//! Two namespaces and one veth pair. The generator's frames (BPF_F_TEST_XDP_LIVE_FRAMES) arrive at the far end's native
//! XDP; what it sends back is counted by receiver and dropped at the near end. Generator, veth, program and sink share
//! one CPU, so a rate is the time of all four together; the floors say what of it is not the program's.

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{Xdp, XdpMode};
use blast::{Generator, Mode, Sink};
use occasion::Occasion;
use serde::{Deserialize, Serialize};
use testbed::{netns::Netns, run::Run};

use crate::{
    cases::{self, Case},
    harness::Harness,
    statistics::Summary,
    world::World,
};

/// The interface's name, in both namespaces.
const INTERFACE: &str = "eth0";
/// Cases of `bench xdp` that are also run live.
const CASES: [&str; 9] = [
    "shard/v4/l2/1024",
    "cookie/v4/l2/1024",
    "cookie/v6/l2/1024",
    "warm/v4/l2/1024",
    "session/v4/l2/1024",
    "session/v4/l2/131072",
    "flow/v4/l2/131072",
    "warm/v4/ipip4/1",
    "warm/v4/gue4/1",
];
/// Of the packets sent, at least this share must have arrived for a rate to count.
const ARRIVED: f64 = 0.999;

/// What `bench live` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Three rounds of a million packets: shows that everything works, measures little.
    #[arg(long)]
    quick: bool,
    /// Write the rows as JSON to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Only cases whose name contains this; the floors always run.
    #[arg(long, default_value = "", value_name = "FILTER")]
    case: String,
    /// Places of `SESSIONS` and of `FLOWS`, as `[limits]` of the configuration; those of the object without.
    #[arg(long)]
    places: Option<u32>,
    /// Print the rows as JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// One rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    case: String,
    median_mpps: f64,
    min_mpps: f64,
    max_mpps: f64,
    /// Of the rate of MAC swap.
    ratio_to_swap: f64,
    rounds: u32,
    packets: u64,
    /// What the sink counted of them.
    arrived: u64,
    /// MAC addresses that they arrived for.
    receivers: usize,
}

/// What is at the far end.
enum Far {
    /// The generator's frames end there.
    Sink,
    /// MAC addresses are swapped.
    Swap,
    /// The balancer.
    Balancer(Box<Case>),
}

struct Measured {
    name: String,
    far: Far,
    generator: Generator,
    rates: Vec<f64>,
    packets: u64,
    arrived: u64,
    receivers: usize,
    /// Why it is measured no more.
    failed: Option<anyhow::Error>,
}

/// Runs the benchmark.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let occasion = Occasion::begin();
    let (rounds, packets) = if args.quick {
        (3, 1 << 20)
    } else {
        (9, 1 << 22)
    };
    let mut wire = Wire::build(args)?;
    let mut measured = wire.cases(&args.case)?;
    for round in 1..=rounds {
        let _closed = writeln!(std::io::stderr(), "round {round} of {rounds}");
        for it in &mut measured {
            if it.failed.is_none() {
                it.failed = wire.measure(it, packets).err();
            }
        }
    }
    let rows = rows(&measured, rounds);
    let json = serde_json::to_string_pretty(&rows)?;
    if let Some(path) = &args.report {
        occasion.write(path, &json)?;
    }
    let text = if args.json { json } else { table(&rows) };
    writeln!(std::io::stdout(), "{text}").context("printing")?;
    for it in &measured {
        if let Some(error) = &it.failed {
            bail!("{}: {error:#}", it.name);
        }
    }
    for row in &rows {
        ensure!(
            row.arrived as f64 >= row.packets as f64 * ARRIVED,
            "{}: only {} of {} packets arrived",
            row.case,
            row.arrived,
            row.packets
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(measured: &[Measured], rounds: u32) -> Vec<Row> {
    let median = |it: &Measured| Summary::of(&it.rates).map_or(0.0, |it| it.median);
    let swap = measured
        .iter()
        .find(|it| matches!(it.far, Far::Swap))
        .map_or(f64::NAN, median);
    let row = |it: &Measured| {
        let rates = Summary::of(&it.rates)?;
        Some(Row {
            case: it.name.clone(),
            median_mpps: rates.median,
            min_mpps: rates.min,
            max_mpps: rates.max,
            ratio_to_swap: rates.median / swap,
            rounds,
            packets: it.packets,
            arrived: it.arrived,
            receivers: it.receivers,
        })
    };
    let sound = |it: &&Measured| it.failed.is_none();
    measured.iter().filter(sound).filter_map(row).collect()
}

fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:24} {:>9} {:>13} {:>13} {:>10}  {}\n",
        "case", "Mpps", "min–max", "of MAC swap", "receivers", "arrived"
    );
    for row in rows {
        out += &format!(
            "{:24} {:>9.2} {:>13} {:>13.2} {:>10}  {} of {}\n",
            row.case,
            row.median_mpps,
            format!("{:.2}–{:.2}", row.min_mpps, row.max_mpps),
            row.ratio_to_swap,
            row.receivers,
            row.arrived,
            row.packets,
        );
    }
    out
}

/// The rows for the document.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "| case | Mpps | min–max | of MAC swap | packets | arrived |\n|---|---|---|---|---|---|\n",
    );
    for row in rows {
        out += &format!(
            "| {} | {:.2} | {:.2}–{:.2} | {:.2} | {} | {} |\n",
            row.case,
            row.median_mpps,
            row.min_mpps,
            row.max_mpps,
            row.ratio_to_swap,
            row.packets,
            row.arrived
        );
    }
    out
}

/// The two namespaces, and what runs in them.
struct Wire {
    near: Netns,
    far: Netns,
    ifindex: u32,
    sink: Sink,
    harness: Harness,
    world: World,
    /// Dropped last: takes the namespaces with it.
    _run: Run,
}

impl Wire {
    fn build(args: &Args) -> Result<Self> {
        let run = Run::new()?;
        let near = Netns::create(&run, "near")?;
        let far = Netns::create(&run, "far")?;
        near.ip(&format!(
            "link add {INTERFACE} type veth peer name {INTERFACE} netns {}",
            far.name()
        ))?;
        for netns in [&near, &far] {
            netns.ip(&format!("link set {INTERFACE} up"))?;
        }
        let ifindex = near.enter(|| nix::net::if_::if_nametoindex(INTERFACE))??;
        let sink = near.enter(|| Sink::attach(INTERFACE, Mode::Native))??;
        let mut harness = Harness::load()?;
        harness.target("swap")?;
        Ok(Self {
            ifindex,
            sink,
            harness,
            world: World::load(prog_tests::object(), "balancer", args.places)?,
            near,
            far,
            _run: run,
        })
    }

    fn cases(&self, filter: &str) -> Result<Vec<Measured>> {
        let all = cases::all();
        let cases: Vec<_> = CASES
            .iter()
            .filter(|name| name.contains(filter))
            .map(|name| {
                let case = all.iter().find(|case| case.name == *name);
                case.cloned().with_context(|| format!("no case {name}"))
            })
            .collect::<Result<_>>()?;
        let any = all.first().context("no case at all")?;
        let mut measured = vec![
            self.measured("floor_drop", Far::Sink, any)?,
            self.measured("floor_swap", Far::Swap, any)?,
        ];
        for case in cases {
            let far = Far::Balancer(Box::new(case.clone()));
            measured.push(self.measured(&case.name, far, &case)?);
        }
        Ok(measured)
    }

    fn measured(&self, name: &str, far: Far, case: &Case) -> Result<Measured> {
        let mut generator = Generator::load(self.ifindex, &[(case.scene.clone(), 1)])?;
        generator.set_cookies(&self.world.cookies())?;
        Ok(Measured {
            name: name.to_owned(),
            far,
            generator,
            rates: Vec::new(),
            packets: 0,
            arrived: 0,
            receivers: 0,
            failed: None,
        })
    }

    /// One round: attaches what is to be at the far end, shows it each flow, and sends.
    fn measure(&mut self, it: &mut Measured, packets: u32) -> Result<()> {
        let generator = &mut it.generator;
        let near = &self.near;
        let mut send = |count: u32| near.enter(|| generator.send(count))?.context("sending");
        let rate = match &it.far {
            Far::Sink => {
                let sink = self.far.enter(|| Sink::attach(INTERFACE, Mode::Native))??;
                send(1 << 12)?;
                let before = sink.packets()?;
                let rate = timed(packets, &mut send)?;
                it.arrived += sink.packets()? - before;
                it.receivers = sink.receivers()?.len();
                rate
            }
            Far::Swap => {
                let program = self.harness.program("swap")?;
                let link = attach(&self.far, program)?;
                send(1 << 12)?;
                let before = self.sink.packets()?;
                let rate = timed(packets, &mut send)?;
                it.arrived += self.sink.packets()? - before;
                it.receivers = 1;
                self.harness.program("swap")?.detach(link)?;
                rate
            }
            Far::Balancer(case) => {
                self.world.tunnel_over(case.way.outer)?;
                self.world.police(case.police)?;
                let link = attach(&self.far, self.world.program()?)?;
                send((2 * case.flows).max(1 << 12))?;
                let before = self.sink.receivers()?;
                let counted = self.world.counted(case.counter)?;
                let rate = timed(packets, &mut send);
                self.world.program()?.detach(link)?;
                let rate = rate?;
                let counted = self.world.counted(case.counter)? - counted;
                ensure!(
                    counted as f64 >= f64::from(packets) * ARRIVED,
                    "only {counted} of {packets} packets were counted under the case's rule"
                );
                let after = self.sink.receivers()?;
                let grown =
                    |mac, packets| packets - before.get(mac).map_or(0, |before| before.packets);
                let grown = after.iter().map(|(mac, it)| grown(mac, it.packets));
                let grown: Vec<_> = grown.filter(|grown| *grown > 0).collect();
                it.arrived += grown.iter().sum::<u64>();
                it.receivers = grown.len();
                rate
            }
        };
        it.packets += u64::from(packets);
        it.rates.push(rate);
        Ok(())
    }
}

fn attach(netns: &Netns, program: &mut Xdp) -> Result<aya::programs::xdp::XdpLinkId> {
    netns
        .enter(|| program.attach(INTERFACE, XdpMode::Driver))?
        .context("attaching the program under test")
}

/// Sends `packets`; millions of them a second. All that a packet causes has happened when the call comes back, because
/// softirqs run on the caller's CPU before it goes on.
fn timed(packets: u32, send: &mut impl FnMut(u32) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    send(packets)?;
    Ok(f64::from(packets) / start.elapsed().as_secs_f64() / 1e6)
}
