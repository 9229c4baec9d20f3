//! What a request and its reply cost this machine before anybody does anything with them: a hundred bytes each way over a
//! Unix socket between two processes that wait for one another, while idle processors sleep as the machine is set up, and
//! while they poll. On an idle virtual machine the first is two wake-ups of a processor that has been halted, which cost more
//! than all the rest; so rows of warm requests are to be read beside these.

use std::{
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};
use worker::cpu_latency::{CpuLatency, CpuLatencyConfig, Hold};

use crate::{Scope, row::Row, say, warm::us};

/// Has this executable be the other process.
pub(crate) const VERB: &str = "be-the-echo";
/// One after the other in each round.
const CASES: [(&str, Hold); 2] = [
    ("floor/unix, idle processors sleep", Hold::Never),
    ("floor/unix, idle processors poll", Hold::Always),
];
const ROUNDS: usize = 8;
const EXCHANGES: usize = 2_000;
const BYTES: usize = 100;

/// Measures the floor, if it was asked for.
pub(crate) fn rows(scope: &Scope) -> Result<Vec<Row>> {
    let mut cases: Vec<_> = CASES
        .iter()
        .filter(|(case, _)| scope.has(case))
        .map(|(case, hold)| (*case, *hold, Vec::new()))
        .collect();
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    let rounds = scope.rounds(ROUNDS);
    say(&format!("floor: {rounds} rounds of {EXCHANGES} exchanges"));
    for _round in 0..rounds {
        for (_, hold, times) in &mut cases {
            times.extend(exchanges(*hold)?);
        }
    }
    let rows = cases
        .into_iter()
        .map(|(case, _, times)| Row::of(case, "us", times));
    Ok(rows.flatten().collect())
}

/// Microseconds of each exchange with another process.
fn exchanges(hold: Hold) -> Result<Vec<f64>> {
    let _held = CpuLatency::new(&CpuLatencyConfig {
        hold,
        ..CpuLatencyConfig::default()
    })?;
    let (mut here, there) = UnixStream::pair().context("making a socket")?;
    let mut echo = Command::new(std::env::current_exe()?)
        .arg(VERB)
        .stdin(Stdio::from(OwnedFd::from(there)))
        .spawn()
        .context("starting the echo")?;
    let mut exchange = || -> Result<f64> {
        let mut bytes = [7; BYTES];
        let start = Instant::now();
        here.write_all(&bytes)?;
        here.read_exact(&mut bytes)?;
        Ok(us(start.elapsed()))
    };
    let measured: Result<Vec<f64>> = (0..EXCHANGES).map(|_| exchange()).collect();
    drop(here);
    echo.wait().context("waiting for the echo")?;
    measured
}

/// The other process: sends back what comes, until nothing comes any more.
pub(crate) fn be_the_echo() -> Result<()> {
    let socket = std::io::stdin();
    let socket = std::os::fd::AsFd::as_fd(&socket).try_clone_to_owned()?;
    let mut socket = UnixStream::from(socket);
    let mut bytes = [0; BYTES];
    while socket.read_exact(&mut bytes).is_ok() {
        socket.write_all(&bytes)?;
    }
    Ok(())
}
