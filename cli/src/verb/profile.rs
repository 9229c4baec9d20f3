//! `warmpath fn profile`: where a function that is being called spends its time.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::task::JoinSet;
use worker::{
    api::client::{ClientError, WorkerClient},
    profile::{ProfileReport, ProfileRequest, Stacks},
};

use crate::{
    args::ProfileArgs,
    flame,
    output::{self, Exit, Table},
};

/// Rows of the table.
const ROWS: usize = 15;

/// What `--json` prints.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Report {
    function: String,
    workers: Vec<String>,
    seconds: u32,
    hz: u32,
    requests: u64,
    samples: u64,
    stacks: Stacks,
}

pub(super) async fn profile(args: &ProfileArgs) -> Result<Exit> {
    let request = ProfileRequest {
        function: args.name.clone(),
        seconds: args.seconds,
        hz: args.hz,
    };
    let report = merge(&request, ask(args, &request).await?);
    if let Some(path) = &args.output {
        let svg = flame::draw(&headline(&report), &report.stacks);
        std::fs::write(path, svg).with_context(|| format!("write {}", path.display()))?;
    }
    if args.json {
        output::json(&report)?;
    } else {
        output::line(headline(&report))?;
        table(&report.stacks).print()?;
    }
    if report.samples > 0 {
        return Ok(Exit::Ok);
    }
    output::talk(format_args!("warmpath: {}", why_empty(&report)));
    Ok(Exit::Failed)
}

/// Asks all workers at once, for they all take their time. Who does not know the function has no part in it, unless
/// nobody does.
async fn ask(args: &ProfileArgs, request: &ProfileRequest) -> Result<Vec<ProfileReport>> {
    let mut asked = JoinSet::new();
    for socket in &args.workers.worker {
        let (client, request) = (WorkerClient::new(socket)?, request.clone());
        asked.spawn(async move { client.profile(&request).await });
    }
    let (mut reports, mut unknown) = (Vec::new(), Vec::new());
    for answer in asked.join_all().await {
        match answer {
            Ok(report) => reports.push(report),
            Err(ClientError::Refused { status, message }) if status.as_u16() == 404 => {
                unknown.push(message);
            }
            // What it says stands for itself.
            Err(ClientError::Refused { message, .. }) => bail!("{message}"),
            Err(error) => return Err(error.into()),
        }
    }
    if reports.is_empty() {
        bail!("{}", unknown.join("\n"));
    }
    Ok(reports)
}

fn merge(request: &ProfileRequest, reports: Vec<ProfileReport>) -> Report {
    let mut all = Report {
        function: request.function.clone(),
        seconds: request.seconds,
        hz: request.hz,
        ..Report::default()
    };
    for report in reports {
        all.workers.push(report.worker);
        all.requests += report.requests;
        all.stacks.merge(&report.stacks);
    }
    all.workers.sort();
    all.samples = all.stacks.samples();
    all
}

fn headline(report: &Report) -> String {
    let Report {
        function,
        seconds,
        hz,
        requests,
        samples,
        ..
    } = report;
    let workers = report.workers.join(", ");
    format!(
        "{function}: {samples} samples of {requests} requests in {seconds} s at {hz} Hz on {workers}"
    )
}

fn why_empty(report: &Report) -> String {
    let Report {
        function, seconds, ..
    } = report;
    let workers = report.workers.join(", ");
    if report.requests == 0 {
        return format!(
            "no request of {function} began on {workers} within {seconds} s: call it meanwhile (`warmpath fn invoke \
             {function}`), or look for longer (`--seconds`)"
        );
    }
    format!(
        "the requests of {function} were over before anyone could look: look more often (`--hz {}`) or for longer \
         (`--seconds`)",
        ProfileRequest::HZ_MAX
    )
}

/// The frames in which most samples were taken: on top of the stack, and anywhere in it.
fn table(stacks: &Stacks) -> Table {
    let mut frames = BTreeMap::<&str, (u64, u64)>::new();
    for (stack, samples) in stacks.iter() {
        if let Some(top) = stack.rsplit(';').next() {
            frames.entry(top).or_default().0 += samples;
        }
        // A function that calls itself is in the stack once.
        for frame in stack.split(';').collect::<BTreeSet<_>>() {
            frames.entry(frame).or_default().1 += samples;
        }
    }
    let mut frames: Vec<_> = frames.into_iter().collect();
    frames.sort_by_key(|(_, counts)| std::cmp::Reverse(*counts));
    let all = stacks.samples().max(1);
    let percent = |samples: u64| format!("{:.1}", samples as f64 * 100.0 / all as f64);
    let mut table = Table::new(&["self %", "total %", "frame"]);
    for (frame, (own, total)) in frames.into_iter().take(ROWS) {
        table.row(vec![percent(own), percent(total), frame.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(worker: &str, stacks: &[(&str, u64)]) -> ProfileReport {
        let mut report = ProfileReport {
            worker: worker.to_owned(),
            requests: 2,
            ..ProfileReport::default()
        };
        for (stack, samples) in stacks {
            report.stacks.add(stack, *samples);
        }
        report
    }

    fn request() -> ProfileRequest {
        ProfileRequest {
            function: "f".to_owned(),
            seconds: 5,
            hz: 99,
        }
    }

    #[test]
    fn workers_are_added_up() {
        let reports = vec![
            report("b", &[("f;g", 1), ("f", 2)]),
            report("a", &[("f;g", 3)]),
        ];
        let merged = merge(&request(), reports);
        assert_eq!(
            headline(&merged),
            "f: 6 samples of 4 requests in 5 s at 99 Hz on a, b"
        );
        let all: Vec<_> = merged.stacks.iter().collect();
        assert_eq!(all, [("f", 2), ("f;g", 4)]);
    }

    #[test]
    fn a_frame_counts_once_in_a_stack_and_for_itself_on_top() {
        let merged = report("a", &[("f;g;g", 3), ("f", 1)]);
        let table = table(&merged.stacks).to_string();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|row| row.split_whitespace().collect())
            .collect();
        assert_eq!(rows[1], ["75.0", "75.0", "g"]);
        assert_eq!(rows[2], ["25.0", "100.0", "f"]);
    }

    #[test]
    fn an_empty_profile_says_what_to_do() {
        let mut none = merge(&request(), vec![report("a", &[])]);
        assert!(why_empty(&none).contains("--hz 1000"));
        none.requests = 0;
        assert!(why_empty(&none).contains("warmpath fn invoke f"));
    }
}
