//! The parts of the demo, in the order in which they are shown. Each runs its load, reads the figures back,
//! and prints its part of the report.

mod control_plane_kill;
mod counters;
mod faults;
mod http;
mod rpc;
mod sessions;
mod shards;
mod worker_kill;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ::tests::{
    cluster::Cluster,
    load::{LoadProcess, Plan, Summary},
};
use anyhow::{Context as _, Result};

use crate::{drawing::Pictures, figures::Figures, screen::Screen};

/// The functions in `examples/`.
const FUNCTIONS: &[&str] = &[
    "hello",
    "session-counter",
    "kv-counter",
    "failing",
    "memory-hog",
];
/// Requests that each worker gets before anything is measured, so that it has a warm instance.
const WARM_UP: u64 = 20;
const WARM_UP_IN_FLIGHT: usize = 2;
const FEW_CALLS: u64 = 200;

/// How much to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    divisor: u64,
}

impl Scale {
    pub(crate) const fn of(quick: bool) -> Self {
        Self {
            divisor: if quick { 10 } else { 1 },
        }
    }

    /// `full` requests, or a tenth of them.
    pub(crate) const fn requests(self, full: u64) -> u64 {
        full / self.divisor
    }
}

/// Everything that the parts share.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) cluster: Cluster,
    pub(crate) screen: &'a Screen,
    pub(crate) figures: Figures,
    pub(crate) pictures: Pictures,
    pub(crate) scale: Scale,
    /// Packets that clients sent to the VIP, and that the program counted, part by part.
    pub(crate) books: Vec<Entry>,
    program: PathBuf,
    /// Worker id → name.
    names: BTreeMap<u16, String>,
}

/// One line of the packet books.
#[derive(Debug)]
pub(crate) struct Entry {
    part: &'static str,
    sent: u64,
    counted: u64,
    /// Frames that a full queue dropped on the way, of whatever kind.
    dropped: u64,
}

impl Entry {
    /// Whether each packet sent was counted, or was among the frames dropped on the wire.
    const fn adds_up(&self) -> bool {
        self.counted <= self.sent && self.sent <= self.counted + self.dropped
    }
}

impl<'a> Stage<'a> {
    /// Deploys the examples on a platform that just came up.
    pub(crate) fn new(
        cluster: Cluster,
        screen: &'a Screen,
        examples: &Path,
        scale: Scale,
    ) -> Result<Self> {
        for function in FUNCTIONS {
            cluster
                .deploy(&examples.join(function))
                .with_context(|| format!("deploying {function}"))?;
        }
        let workers = cluster.worker_states()?;
        Ok(Self {
            names: workers
                .into_iter()
                .map(|worker| (worker.id, worker.name))
                .collect(),
            cluster,
            screen,
            figures: Figures::default(),
            pictures: Pictures::default(),
            scale,
            books: Vec::new(),
            program: std::env::current_exe().context("finding the demo's own binary")?,
        })
    }

    pub(crate) fn start_load(&self, plan: &Plan) -> Result<LoadProcess> {
        LoadProcess::start(&self.cluster.topology, &self.program, plan)
    }

    /// Runs `plan` to its end behind a progress bar.
    pub(crate) fn load(&self, what: &str, plan: &Plan) -> Result<Summary> {
        let bar = self.screen.bar(what, plan.requests());
        self.start_load(plan)?.finish(&mut |done| bar.set(done))
    }

    /// Runs `work`, and writes into the books what it says it sent to the VIP and what the program counted.
    pub(crate) fn booked<T>(
        &mut self,
        part: &'static str,
        work: impl FnOnce(&mut Self) -> Result<(T, u64)>,
    ) -> Result<T> {
        let read = |stage: &Self| -> Result<(u64, u64)> {
            let counted = stage.cluster.counters()?.rpc_outcomes();
            Ok((counted, stage.cluster.topology.frames_dropped()?))
        };
        let before = read(self)?;
        let (result, sent) = work(self)?;
        let after = read(self)?;
        self.books.push(Entry {
            part,
            sent,
            counted: after.0 - before.0,
            dropped: after.1 - before.1,
        });
        Ok(result)
    }

    /// Calls `function` on each worker directly, so that every one of them has it warm.
    pub(crate) fn warm(&self, function: &str) -> Result<()> {
        for index in 0..self.cluster.topology.workers.len() {
            let plan = Plan::Closed {
                function: function.to_owned(),
                target: self.cluster.direct(index),
                requests: WARM_UP,
                in_flight: WARM_UP_IN_FLIGHT,
            };
            let summary = self.start_load(&plan)?.finish(&mut |_done| ())?;
            anyhow::ensure!(
                summary.answered() > 0,
                "worker {index} answers no direct call of {function}: {:?}",
                summary.failures()
            );
        }
        Ok(())
    }

    /// A few calls through the VIP, to see where they go.
    pub(crate) fn few_calls(&self, function: &str) -> Result<Summary> {
        let plan = Plan::Closed {
            function: function.to_owned(),
            target: self.vip(),
            requests: FEW_CALLS,
            in_flight: WARM_UP_IN_FLIGHT,
        };
        self.start_load(&plan)?.finish(&mut |_done| ())
    }

    /// The index of the worker that answered most.
    pub(crate) fn busiest(&self, summary: &Summary) -> Result<usize> {
        let workers = summary.series.iter().flat_map(|series| &series.workers);
        let (id, _count) = workers
            .max_by_key(|(_id, count)| **count)
            .context("no reply names its worker")?;
        let name = self.name(*id);
        let mut hosts = self.cluster.topology.workers.iter();
        hosts
            .position(|host| host.role == name)
            .with_context(|| format!("no host is worker {name}"))
    }

    pub(crate) fn vip(&self) -> SocketAddr {
        self.cluster.vip()
    }

    /// The name of the worker with id `id`.
    pub(crate) fn name(&self, id: u16) -> &str {
        self.names.get(&id).map_or("?", String::as_str)
    }

    /// `w0 33 %, w1 33 %, w2 34 %`
    pub(crate) fn shares(&self, workers: &BTreeMap<u16, u64>) -> String {
        let all: u64 = workers.values().sum();
        let mut text = String::new();
        for (id, count) in workers {
            let comma = if text.is_empty() { "" } else { ", " };
            let share = *count as f64 * 100.0 / all.max(1) as f64;
            let name = self.name(*id);
            // Writing to a string cannot fail.
            let _infallible = write!(text, "{comma}{name} {share:.0} %");
        }
        text
    }

    pub(crate) fn say(&self, text: &str) {
        self.screen.say(text);
    }
}

/// Shows everything.
pub(crate) fn all(stage: &mut Stage<'_>) -> Result<()> {
    introduce(stage)?;
    rpc::show(stage).context("(a) RPC")?;
    sessions::show(stage).context("(b) sessions")?;
    shards::show(stage).context("(c) shards")?;
    http::show(stage).context("(d) HTTP")?;
    faults::show(stage).context("faults of functions")?;
    worker_kill::show(stage).context("(e) a killed worker")?;
    control_plane_kill::show(stage).context("(f) a killed control plane")?;
    counters::show(stage).context("(g) counters")
}

fn introduce(stage: &mut Stage<'_>) -> Result<()> {
    let status = stage.cluster.status()?;
    stage.figures.xdp.mode = stage.cluster.xdp_mode()?;
    let mode = &stage.figures.xdp.mode;
    let (id, tag) = (status.program_id, &status.program_tag);
    let workers = status.workers_up;
    let vip = stage.vip();
    stage.say(&format!(
        "Warmpath: a client, a balancer, a gateway and {workers} workers, each in a network namespace of its own.\n\
         XDP program {id} (tag {tag}) is attached to the balancer in {mode} mode and answers for {vip}.\n\
         Deployed: {}.",
        FUNCTIONS.join(", ")
    ));
    Ok(())
}

/// What to try while the platform is left running.
pub(crate) fn next_commands(cluster: &Cluster, warmpath: &Path) -> String {
    let warmpath = warmpath.display();
    let client = format!(
        "nsenter --net={}",
        cluster.topology.client.netns.path().display()
    );
    let admin = cluster.paths().admin_socket();
    let (admin, pins) = (admin.display(), cluster.paths().pins());
    let (pins, store, gateway) = (pins.display(), cluster.store_url(), cluster.gateway_url());
    format!(
        "\nThe platform keeps running until Ctrl-C. Try next, in another terminal:\n\
         \n  {warmpath} status --admin {admin} --pin-path {pins}\
         \n  {warmpath} map dump COUNTERS --pin-path {pins}\
         \n  {warmpath} route explain hello --pin-path {pins}\
         \n  {client} {warmpath} fn list --store {store}\
         \n  {client} {warmpath} fn invoke hello '{{\"name\":\"Ada\"}}'\
         \n  {client} curl -d '{{\"name\":\"Ada\"}}' {gateway}/run/hello\n"
    )
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_digits_by_three() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
