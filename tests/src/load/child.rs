//! The other end: starts the load generator in the client's namespace and reads what it says.

use std::{
    io::{BufRead as _, BufReader, Lines},
    path::Path,
    process::ChildStdout,
};

use anyhow::{Context as _, Result, bail};

use super::{Message, Plan, Summary};
use crate::{
    process::{Process, Spec},
    topology::Topology,
};

/// A load generator at work. Dropping it kills it.
#[derive(Debug)]
pub struct LoadProcess {
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
}

impl LoadProcess {
    /// Starts `program load PLAN` in the client's namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(topology: &Topology, program: &Path, plan: &Plan) -> Result<Self> {
        let plan = serde_json::to_string(plan).context("encoding a plan")?;
        let mut process = Process::start(
            &topology.run,
            &Spec {
                name: "load",
                netns: &topology.client.netns,
                program,
                args: &["load", &plan],
                piped: true,
            },
        )?;
        let stdout = process
            .stdout()
            .context("the load generator has no output")?;
        Ok(Self {
            process,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// Waits until it has ended `requests` requests; `progress` is told on the way.
    ///
    /// # Errors
    /// When it ends before that.
    pub fn wait_done(&mut self, requests: u64, progress: &mut dyn FnMut(u64)) -> Result<()> {
        loop {
            match self.next()? {
                Message::Done(done) => {
                    progress(done);
                    if done >= requests {
                        return Ok(());
                    }
                }
                Message::Failed(error) => bail!("the load generator: {error}"),
                Message::Summary(_) => bail!("the load generator ended before {requests} requests"),
            }
        }
    }

    /// Waits for its end and its figures; `progress` is told on the way.
    ///
    /// # Errors
    /// When it fails.
    pub fn finish(mut self, progress: &mut dyn FnMut(u64)) -> Result<Summary> {
        loop {
            match self.next()? {
                Message::Done(done) => progress(done),
                Message::Failed(error) => bail!("the load generator: {error}"),
                Message::Summary(summary) => return Ok(*summary),
            }
        }
    }

    fn next(&mut self) -> Result<Message> {
        match self.lines.next() {
            Some(line) => {
                let line = line.context("reading from the load generator")?;
                serde_json::from_str(&line)
                    .with_context(|| format!("the load generator said `{line}`"))
            }
            None => bail!(
                "the load generator ended without a summary:\n{}",
                self.process.log_tail()
            ),
        }
    }
}
