//! `bench xdp`: every case and, right before it, its floor; round by round, so that what the machine does meanwhile
//! meets all of them alike.

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use blast::Ip;
use occasion::Occasion;

use crate::{
    cases::{self, Case},
    harness::{Harness, TX},
    plot,
    report::{self, Row},
    statistics::Summary,
    world::{Police, World},
};

/// A case is proven if at least this share of its packets was its own: sessions and flows may lose their place in a full
/// row, more of them in the first rounds, when the flows of cases before count as used.
const PROVEN: f64 = 0.998;

/// What `bench xdp` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Three rounds of a quarter of the packets: shows that everything works, measures little.
    #[arg(long)]
    quick: bool,
    /// Write the rows as JSON to this file.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Draw net nanoseconds against flows: an SVG or, by its name, an HTML file.
    #[arg(long, value_name = "FILE.svg|html")]
    plot: Option<PathBuf>,
    /// Switch the police stage off: no block list, no rates, no shedding. The answer RETRY is then left out.
    #[arg(long)]
    without_police: bool,
    /// Measure `traced`, the program that `warmpath trace` puts in the place of `balancer`, with a filter that no packet meets.
    #[arg(long)]
    traced: bool,
    /// Only cases whose name contains this, like `session/v4`.
    #[arg(long, default_value = "", value_name = "FILTER")]
    case: String,
    /// Places of `SESSIONS` and of `FLOWS`, as `[limits]` of the configuration; those of the object without.
    #[arg(long)]
    places: Option<u32>,
    /// Print the rows as JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Rounds, instead of 9.
    #[arg(long)]
    rounds: Option<u32>,
    /// Packets in a round, instead of 1,048,576.
    #[arg(long)]
    packets: Option<u32>,
}

/// A case, and what was measured of it.
struct Measured {
    case: Case,
    results: Vec<f64>,
    floors: Vec<f64>,
    packets: u64,
    counted: u64,
    /// Why it is measured no more.
    failed: Option<String>,
}

/// Runs the benchmark.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let occasion = Occasion::begin();
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 9 });
    let packets = args
        .packets
        .unwrap_or(if args.quick { 1 << 18 } else { 1 << 20 });
    let mut bench = Bench::load(packets, args)?;
    let measured: Vec<_> = cases::all()
        .into_iter()
        .filter(|case| case.name.contains(&args.case))
        .filter(|case| !(args.without_police && case.police == Police::Strict))
        .map(Measured::new)
        .collect();
    let mut floors: Vec<_> = bench.floors()?;
    floors.retain(|floor| floor.measured.case.name.contains(&args.case));
    ensure!(
        !measured.is_empty() || !floors.is_empty(),
        "no case has `{}` in its name",
        args.case
    );
    // New sessions and flows flood the tables, so they come when the others are done.
    let (mut last, mut measured): (Vec<_>, Vec<_>) =
        measured.into_iter().partition(|it| it.case.floods());
    for round in 1..=rounds {
        progress(&format!("round {round} of {rounds}"));
        for floor in &mut floors {
            bench.floor(floor)?;
        }
        measured.iter_mut().for_each(|it| bench.case_or_fail(it));
    }
    for _round in 1..=rounds {
        last.iter_mut().for_each(|it| bench.case_or_fail(it));
    }
    measured.append(&mut last);
    let failures: Vec<_> = measured.iter().filter_map(Measured::failure).collect();
    let floors = floors.into_iter().map(|floor| floor.measured);
    let rows: Vec<_> = floors
        .chain(measured)
        .filter_map(|it| it.row(rounds))
        .collect();
    finish(args, occasion, &rows, &failures)
}

fn finish(args: &Args, occasion: Occasion, rows: &[Row], failures: &[String]) -> Result<ExitCode> {
    let json = serde_json::to_string_pretty(rows)?;
    if let Some(path) = &args.report {
        occasion.write(path, &json)?;
    }
    if let Some(path) = &args.plot {
        let is_html = path
            .extension()
            .is_some_and(|extension| extension == "html");
        let page = if is_html {
            plot::html(rows, &report::table(rows))
        } else {
            plot::svg(rows)
        };
        fs::write(path, page).with_context(|| format!("writing {}", path.display()))?;
    }
    let text = if args.json { json } else { report::table(rows) };
    writeln!(std::io::stdout(), "{text}").context("printing")?;
    let unproven = |row: &&Row| (row.counted as f64) < row.packets as f64 * PROVEN;
    let unproven: Vec<_> = rows.iter().filter(unproven).collect();
    for row in &unproven {
        progress(&format!(
            "{}: only {} of {} packets were counted under its rule",
            row.case, row.counted, row.packets
        ));
    }
    failures.iter().for_each(|failure| progress(failure));
    ensure!(
        failures.is_empty() && unproven.is_empty(),
        "{} cases did not end as they must and have no row, {} rows are not proven by the counters",
        failures.len(),
        unproven.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// Harness and product, both loaded.
struct Bench {
    harness: Harness,
    world: World,
    /// The floor: the program that only says XDP_TX.
    floor: ProgramFd,
    product: ProgramFd,
    packets: u32,
    without_police: bool,
}

/// A program of the harness's own object that is measured as a floor.
struct Floor {
    measured: Measured,
    target: ProgramFd,
}

impl Bench {
    fn load(packets: u32, args: &Args) -> Result<Self> {
        let mut harness = Harness::load()?;
        let program = if args.traced { "traced" } else { "balancer" };
        let mut world = World::load(prog_tests::object(), program, args.places)?;
        if args.traced {
            world.trace_nothing()?;
        }
        harness.set_cookies(&world.cookies())?;
        Ok(Self {
            floor: harness.target("tx")?,
            product: world.target()?,
            harness,
            world,
            packets,
            without_police: args.without_police,
        })
    }

    /// Measures one round of a case, unless one before has failed: the others go on.
    fn case_or_fail(&mut self, it: &mut Measured) {
        if it.failed.is_none() {
            it.failed = self.case(it).err().map(|error| format!("{error:#}"));
        }
    }

    /// Measures one round of a case: its floor, and then the product, with warm caches.
    fn case(&mut self, it: &mut Measured) -> Result<()> {
        let (scene, verdict) = (&it.case.scene, it.case.verdict);
        self.harness.show(scene)?;
        self.harness.aim(&self.floor)?;
        it.floors.push(self.harness.run(scene, self.packets, TX)?);
        self.world.tunnel_over(it.case.way.outer)?;
        self.world.warm(it.case.warmth)?;
        self.world.police(if self.without_police {
            Police::Off
        } else {
            it.case.police
        })?;
        self.harness.aim(&self.product)?;
        // Each flow twice, so that it is known and counts as used when a row of its table is full.
        let known = (2 * it.case.flows).max(4_096);
        self.harness.run(scene, known, verdict)?;
        let before = self.world.counted(it.case.counter)?;
        it.results
            .push(self.harness.run(scene, self.packets, verdict)?);
        it.counted += self.world.counted(it.case.counter)? - before;
        it.packets += u64::from(self.packets);
        Ok(())
    }

    fn floor(&mut self, floor: &mut Floor) -> Result<()> {
        let it = &mut floor.measured;
        let scene = &it.case.scene;
        self.harness.show(scene)?;
        self.harness.aim(&self.floor)?;
        it.floors.push(self.harness.run(scene, self.packets, TX)?);
        self.harness.aim(&floor.target)?;
        let presented = self.harness.next_number()?;
        let verdict = it.case.verdict;
        it.results
            .push(self.harness.run(scene, self.packets, verdict)?);
        it.counted += self.harness.next_number()? - presented;
        it.packets += u64::from(self.packets);
        Ok(())
    }

    /// The floors: the harness alone, undoing an encapsulation, dropping, swapping MAC addresses.
    fn floors(&mut self) -> Result<Vec<Floor>> {
        let mut floors = Vec::new();
        for ip in [Ip::V4, Ip::V6] {
            for (name, program, what, verdict) in cases::FLOORS {
                let case = cases::floor(name, ip, *what, *verdict);
                floors.push(Floor {
                    measured: Measured::new(case),
                    target: self.harness.target(program)?,
                });
            }
        }
        Ok(floors)
    }
}

impl Measured {
    const fn new(case: Case) -> Self {
        Self {
            case,
            results: Vec::new(),
            floors: Vec::new(),
            packets: 0,
            counted: 0,
            failed: None,
        }
    }

    fn failure(&self) -> Option<String> {
        let why = self.failed.as_ref()?;
        Some(format!("{}: {why}", self.case.name))
    }

    fn row(&self, rounds: u32) -> Option<Row> {
        if self.failed.is_some() {
            return None;
        }
        let result = Summary::of(&self.results)?;
        let floor = Summary::of(&self.floors)?;
        Some(Row {
            case: self.case.name.clone(),
            rule: self.case.rule.to_owned(),
            ip: self.case.ip.name().to_owned(),
            forward: self.case.way.name().to_owned(),
            flows: self.case.flows,
            median_ns: result.median,
            floor_ns: floor.median,
            min_ns: result.min,
            max_ns: result.max,
            rounds,
            packets: self.packets,
            counted: self.counted,
        })
    }
}

fn progress(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}
