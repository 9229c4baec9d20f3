//! Requests that wait with no instance held: what each takes of a worker's memory, and how long it takes to wake one of
//! them. The worker is a process of its own, so that its memory is that of the worker alone.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use testbed::proc;
use tests::pool::PoolBed;
use tokio::task::JoinSet;
use warmpath_sdk::{Call, Client, ClientConfig};

use crate::{
    Scope,
    burst::monotonic_ns,
    pools::{keep_warm, ms},
    row::Row,
    say,
    warm::serve_rpc,
};

/// The hidden verb of the worker's process.
pub(crate) const VERB: &str = "parking-host";
const REQUESTS: usize = 100_000;
/// Asked for before the next ones are: a worker takes so many in flight.
const AT_ONCE: usize = 500;
const PROBES: usize = 200;
const BUDGET: Duration = Duration::from_secs(1_800);
const PARK_TIMEOUT: Duration = Duration::from_secs(30);
const BULK: &str = "{bulk}";
const HANDLER: &str = "\
import warmpath
def f(event, context):
    if context.wake is None:
        return warmpath.wait(event)
    return context.wake.reason
";

/// What the worker's process says when it is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Look {
    parked: usize,
    rss_kb: u64,
}

/// Measures parking, if it was asked for.
pub(crate) async fn rows(scope: &Scope) -> Result<Vec<Row>> {
    let cases = ["parked/memory", "parked/wake", "parked/all woken"];
    if !cases.iter().any(|case| scope.has(case)) {
        return Ok(Vec::new());
    }
    let requests = if scope.is_quick {
        REQUESTS / 20
    } else {
        REQUESTS
    };
    say(&format!("parked: {requests} requests"));
    let mut host = Host::start()?;
    let config = ClientConfig {
        // All of them, and the probe.
        max_in_flight: requests + 1,
        ..ClientConfig::default()
    };
    let client = Client::connect(host.address, config)?;
    let mut waiting = JoinSet::new();
    let mut first = None;
    while waiting.len() < requests {
        for _ in 0..AT_ONCE {
            waiting.spawn(ask(client.clone(), BULK));
        }
        host.until_parked(waiting.len()).await?;
        // With some parked everything is warm that will be.
        first.get_or_insert((waiting.len(), host.look()?.rss_kb));
    }
    let all = host.look()?;
    let (few, few_kb) = first.context("nothing was parked")?;
    let further = (all.parked - few) as f64;
    let bytes = all.rss_kb.saturating_sub(few_kb) as f64 * 1_024.0 / further;
    let mut wakes = Vec::new();
    for _ in 0..scope.rounds(PROBES) {
        let probe = tokio::spawn(ask(client.clone(), "{probe}"));
        host.until_parked(all.parked + 1).await?;
        let written = host.write("{probe}")?;
        let answered = probe.await??;
        wakes.push(answered.saturating_sub(written) as f64 / 1e6);
    }
    let start = Instant::now();
    host.write(BULK)?;
    let mut count = 0;
    while let Some(answered) = waiting.join_next().await {
        answered??;
        count += 1;
    }
    ensure!(
        count == all.parked,
        "{count} of {} were answered",
        all.parked
    );
    let woken = ms(start.elapsed());
    let rows = [
        Row::of("parked/memory", "B", vec![bytes]),
        Row::of("parked/wake", "ms", wakes),
        Row::of("parked/all woken", "ms", vec![woken]),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// One request that waits for `key`; when it was answered.
async fn ask(client: Client, key: &'static str) -> Result<u64> {
    let call = Call::new("waits")
        .payload(format!("{key:?}"))
        .budget(BUDGET);
    let response = client.call(call).await.context("a request that waits")?;
    ensure!(response.payload == "\"feed\"", "not woken by its feed");
    monotonic_ns()
}

/// The worker's process.
struct Host {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Host {
    fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(VERB)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the worker's process")?;
        let orders = child.stdin.take().context("no stdin")?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut answers = BufReader::new(stdout).lines();
        let address = answers.next().context("the worker's process ended")??;
        Ok(Self {
            child,
            orders,
            answers,
            address: address.parse()?,
        })
    }

    fn order(&mut self, order: &str) -> Result<String> {
        writeln!(self.orders, "{order}").context("asking the worker's process")?;
        let answer = self.answers.next();
        Ok(answer.context("the worker's process ended")??)
    }

    fn look(&mut self) -> Result<Look> {
        Ok(serde_json::from_str(&self.order("look")?)?)
    }

    /// Has it write a key; when it began to.
    fn write(&mut self, key: &str) -> Result<u64> {
        Ok(self.order(key)?.parse()?)
    }

    async fn until_parked(&mut self, count: usize) -> Result<()> {
        let deadline = Instant::now() + PARK_TIMEOUT;
        loop {
            let look = self.look()?;
            if look.parked == count {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{count} should wait: {look:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself; its sandboxes end with it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The worker's process: serves until nobody gives orders any more.
pub(crate) async fn be_the_host() -> Result<()> {
    let bed = PoolBed::start(keep_warm).await?;
    let function = bed.deploy("waits", HANDLER, "memory_mb = 64").await?;
    let (server, address) = serve_rpc(&bed, &function)?;
    let mut out = std::io::stdout();
    writeln!(out, "{address}")?;
    for order in std::io::stdin().lines() {
        let order = order?;
        if order == "look" {
            let look = Look {
                parked: server.parked().0,
                rss_kb: proc::status(std::process::id(), "VmRSS").unwrap_or_default(),
            };
            writeln!(out, "{}", serde_json::to_string(&look)?)?;
            continue;
        }
        let begun = monotonic_ns()?;
        let write = db::Op::Put {
            key: order.into_bytes(),
            value: Vec::new(),
        };
        bed.feeds.execute(write).await?;
        writeln!(out, "{begun}")?;
    }
    bed.stop().await;
    Ok(())
}
