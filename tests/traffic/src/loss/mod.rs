//! Change without loss: tables are changed and the program is replaced under live load, by the control plane's own code, and each packet
//! must come to a worker that was right before or after the change that it met.
//!
//! - `kinds`: what is sent, so that each rule has its share
//! - `plane`: the data plane, and the changes
//! - `sender` with its `flows`, `sink`: the packets' two ends
//! - `report`: what it came to
//! - `check`: where each of them came to, against where it might have

mod check;
mod flows;
mod kinds;
mod plane;
mod report;
mod sender;
mod sink;

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use occasion::Occasion;
use testbed::{
    topology::{Layout, Topology},
    wait,
};

use self::{
    check::Log,
    plane::Plane,
    report::{Row, counts},
    sender::Sender,
    sink::Sink,
};

const WORKERS: u8 = 4;
/// For what takes milliseconds, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);

/// Changes without loss.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Changes of the tables.
    #[arg(long, default_value_t = 1_000)]
    changes: u32,
    /// Replacements of the program, evenly among them.
    #[arg(long, default_value_t = 100)]
    replacements: u32,
    /// Packets per second.
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// Milliseconds between changes.
    #[arg(long, default_value_t = 10)]
    pause_ms: u64,
    /// Where changes and packets are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write what it came to as JSON to this file, and as Markdown beside it.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Runs it, prints what happened, and fails unless every packet came to a right worker.
pub(crate) fn run(args: &Args) -> Result<()> {
    let occasion = Occasion::begin();
    let topology = Topology::build(Layout::OneArm, WORKERS)?;
    let mut plane = Plane::load(&topology, args.seed)?;
    let sinks = topology.workers.iter().map(Sink::start);
    let sinks = sinks.collect::<Result<Vec<_>>>()?;
    let sender = Sender::start(&topology.client, args.rate, plane.keys())?;
    // First every session finds its worker: nothing changes until then.
    wait_arrived(&sinks, &sender, sender::PREFACE)?;
    sender.go_on();

    let begun = Instant::now();
    let mut log = Log::new(plane.right());
    // Also when a packet is waited for in vain: the check says which, and where it may have gone.
    let driven = drive(args, &mut plane, &mut log, &sender, &sinks);
    let took = begun.elapsed();
    let sent = sender.stop();
    // What has not arrived by then is lost, and the check says so.
    let arrived = || sinks.iter().map(Sink::count).sum::<u64>();
    let deadline = Instant::now() + Duration::from_secs(2);
    while sent
        .as_ref()
        .is_ok_and(|sent| arrived() < sent.len() as u64)
        && Instant::now() < deadline
    {
        std::thread::yield_now();
    }
    let arrivals = sinks.into_iter().map(Sink::stop).collect::<Result<_>>()?;
    let sent = sent?;
    let result = log.check(&sent, arrivals);

    let counters = plane.counters()?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "changes ({}) in {} map writes, {} replacements of the program, in {:.1} s",
        counts(plane.changed()),
        plane.writes(),
        plane.replaced(),
        took.as_secs_f64()
    )?;
    writeln!(out, "{result}")?;
    writeln!(out, "counters: {}", counts(&counters))?;
    writeln!(
        out,
        "frames dropped by wires: {}",
        topology.frames_dropped()?
    )?;
    result.verdict()?;
    driven?;
    for (counter, value) in &counters {
        let is_bad = ["drop ", "error "]
            .iter()
            .any(|class| counter.starts_with(class));
        ensure!(!is_bad || *value == 0, "{counter}: {value}");
    }
    let routed = counters
        .iter()
        .filter(|(counter, _)| counter.starts_with("route "));
    let routed: u64 = routed.map(|(_, value)| value).sum();
    ensure!(routed == sent.len() as u64, "{routed} packets were routed");
    let Some(path) = &args.report else {
        return Ok(());
    };
    let row = Row {
        changes: plane.changed().clone(),
        map_writes: plane.writes(),
        replacements: plane.replaced(),
        seconds: took.as_secs_f64(),
        packets: result.packets(),
        counters,
        frames_dropped: topology.frames_dropped()?,
    };
    let json = serde_json::to_string_pretty(&[&row])?;
    crate::report::write(path, occasion, &json, &row.markdown())
}

/// Makes the changes.
fn drive(
    args: &Args,
    plane: &mut Plane,
    log: &mut Log,
    sender: &Sender,
    sinks: &[Sink],
) -> Result<()> {
    for number in 0..args.changes {
        let next = plane.choose();
        if next == plane::Change::Keys {
            // Those of the oldest epoch that is valid now will not be: no more of them, and those on their way arrive.
            sender.seal_with(vec![plane.keys()]);
            wait_arrived(sinks, sender, sender.sent())?;
        }
        log.add(plane.change(next)?);
        if next == plane::Change::Keys {
            sender.seal_with(plane.valid_keys());
        }
        let due = u64::from(number + 1) * u64::from(args.replacements) / u64::from(args.changes);
        if due > plane.replaced() {
            plane.replace_program()?;
        }
        std::thread::sleep(Duration::from_millis(args.pause_ms));
    }
    Ok(())
}

/// Waits until the first `wanted` packets have arrived.
fn wait_arrived(sinks: &[Sink], sender: &Sender, wanted: u64) -> Result<()> {
    wait::until("packets to arrive", PATIENCE, || {
        let arrived: u64 = sinks.iter().map(Sink::count).sum();
        Ok((arrived >= wanted).then_some(()))
    })
    .with_context(|| {
        let arrived: Vec<_> = sinks.iter().map(Sink::count).collect();
        format!("{arrived:?} of {} arrived", sender.sent())
    })
}

#[cfg(all(test, feature = "privileged"))]
mod tests {
    use super::*;

    /// The short form of what `cargo xtask bench loss` does in full: a tenth of it.
    #[test]
    fn a_hundred_changes_and_ten_replacements_lose_no_packet() {
        let args = Args {
            changes: 100,
            replacements: 10,
            rate: 5_000,
            pause_ms: 10,
            seed: 2,
            report: None,
        };
        run(&args).unwrap();
    }
}
