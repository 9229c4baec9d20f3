//! `warmpath fn cost`: what functions used, by version and caller, and what that comes to.

use anyhow::{Context, Result};
use serde::Serialize;
use worker::{
    api::client::WorkerClient,
    bill::{BillLine, BillReport, Line, WhatIf},
};

use crate::{
    args::CostArgs,
    output::{self, Exit, Table},
    prices::{Money, Prices},
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    workers: Vec<String>,
    seconds: u64,
    lines: Vec<Row>,
    total: Row,
    /// CPU time of these functions that no request was charged, since the workers' start.
    unbilled_cpu_ns: u64,
}

#[derive(Debug, Default, Serialize)]
struct Row {
    #[serde(flatten)]
    bill: BillLine,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what_if: Option<Supposed>,
}

#[derive(Debug, Serialize)]
struct Supposed {
    memory_mb: u32,
    #[serde(flatten)]
    what: WhatIf,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Money>,
}

pub(super) async fn cost(args: &CostArgs) -> Result<Exit> {
    let prices = args.prices.as_deref().map(Prices::load).transpose()?;
    let mut reports = Vec::new();
    for socket in &args.workers.worker {
        reports.push(WorkerClient::new(socket)?.bills(args.window).await?);
    }
    let report = reckon(reports, args, prices.as_ref());
    if is_empty(&report, args)? {
        return Ok(Exit::Failed);
    }
    if args.output.json {
        output::json(&report)?;
    } else {
        print(&report, prices.as_ref())?;
    }
    Ok(Exit::Ok)
}

/// Whether there is nothing to show for a function that was asked for; says so.
fn is_empty(report: &Report, args: &CostArgs) -> Result<bool> {
    let Some(name) = args.name.as_ref().filter(|_| report.lines.is_empty()) else {
        return Ok(false);
    };
    if args.output.json {
        output::json(report)?;
    }
    output::talk(format_args!(
        "warmpath: no request of {name} was billed by {}",
        report.workers.join(", ")
    ));
    Ok(true)
}

fn reckon(reports: Vec<BillReport>, args: &CostArgs, prices: Option<&Prices>) -> Report {
    let is_wanted = |line: &BillLine| {
        args.name.as_ref().is_none_or(|name| *name == line.function)
            && args.version.is_none_or(|version| version == line.version)
            && args
                .caller
                .as_ref()
                .is_none_or(|caller| *caller == line.caller)
    };
    let mut lines: Vec<BillLine> = Vec::new();
    let (mut workers, mut seconds, mut unbilled_cpu_ns) = (Vec::new(), 0, 0);
    for report in reports {
        workers.push(report.worker);
        seconds = seconds.max(report.seconds);
        let unbilled = report.unbilled.iter();
        let unbilled = unbilled.filter(|line| {
            args.name.as_ref().is_none_or(|name| *name == line.function)
                && args.version.is_none_or(|version| version == line.version)
        });
        unbilled_cpu_ns += unbilled.map(|line| line.cpu_ns).sum::<u64>();
        for line in report.lines.into_iter().filter(is_wanted) {
            let same = lines.iter_mut().find(|other| {
                (&other.function, other.version, &other.caller)
                    == (&line.function, line.version, &line.caller)
            });
            match same {
                Some(same) => same.sum.merge(&line.sum),
                None => lines.push(line),
            }
        }
    }
    lines.sort_by_key(|line| std::cmp::Reverse(line.sum.cpu_ns));
    let mut sum = Line::default();
    lines.iter().for_each(|line| sum.merge(&line.sum));
    let total = BillLine {
        function: "total".to_owned(),
        sum,
        ..BillLine::default()
    };
    let row = |bill| row(bill, args.what_if, prices);
    Report {
        workers,
        seconds,
        lines: lines.into_iter().map(row).collect(),
        total: row(total),
        unbilled_cpu_ns,
    }
}

fn row(bill: BillLine, what_if: Option<u32>, prices: Option<&Prices>) -> Row {
    let cost = prices.map(|prices| prices.of(&bill.sum));
    let what_if = what_if.map(|memory_mb| {
        let what = bill.sum.what_if(memory_mb);
        let supposed = Line {
            memory_mb_ms: what.memory_mb_ms,
            ..bill.sum.clone()
        };
        Supposed {
            memory_mb,
            what,
            cost: prices.map(|prices| prices.of(&supposed)),
        }
    });
    Row {
        bill,
        cost,
        what_if,
    }
}

fn print(report: &Report, prices: Option<&Prices>) -> Result<()> {
    let mut headings = vec![
        "function", "version", "caller", "requests", "failed", "cold", "cpu_ms", "wall_ms",
        "queue_ms", "mb_s", "kb_in", "kb_out", "db",
    ];
    if prices.is_some() {
        headings.push("cost");
    }
    let mut table = Table::new(&headings);
    for row in report.lines.iter().chain([&report.total]) {
        let BillLine {
            function,
            version,
            caller,
            sum,
            ..
        } = &row.bill;
        let is_total = std::ptr::eq(row, &report.total);
        let or_all = |text: String| if is_total { "-".to_owned() } else { text };
        let db =
            sum.db_reads_local + sum.db_reads_remote + sum.db_writes_local + sum.db_writes_remote;
        let mut cells = vec![
            function.clone(),
            or_all(version.to_string()),
            or_all(caller.clone()),
            sum.requests.to_string(),
            sum.failed.to_string(),
            sum.cold.to_string(),
            tenths(sum.cpu_ns, 1_000_000),
            tenths(sum.wall_us, 1_000),
            tenths(sum.queue_us, 1_000),
            tenths(sum.memory_mb_ms, 1_000),
            tenths(sum.bytes_in, 1_000),
            tenths(sum.bytes_out, 1_000),
            db.to_string(),
        ];
        cells.extend(row.cost.map(|cost| cost.to_string()));
        table.row(cells);
    }
    table.print()?;
    output::line(format_args!(
        "\nin {} s; {} ms of CPU time were no request's",
        report.seconds,
        tenths(report.unbilled_cpu_ns, 1_000_000)
    ))?;
    if let Some(prices) = prices {
        output::line(format_args!("costs are in {}", prices.currency))?;
    }
    match &report.total.what_if {
        Some(supposed) => print_supposed(supposed, &report.total),
        None => Ok(()),
    }
}

fn print_supposed(supposed: &Supposed, total: &Row) -> Result<()> {
    let WhatIf {
        memory_mb_ms,
        killed_at_least,
        killed_at_most,
        largest_peak_mb,
    } = supposed.what;
    let sum = &total.bill.sum;
    let mut text = format!(
        "\nwith memory_mb = {}: {} MB s instead of {}",
        supposed.memory_mb,
        tenths(memory_mb_ms, 1_000),
        tenths(sum.memory_mb_ms, 1_000)
    );
    if let (Some(would), Some(does)) = (supposed.cost, total.cost) {
        text.push_str(&format!(", {would} instead of {does}"));
    }
    let killed = if killed_at_least == killed_at_most {
        killed_at_least.to_string()
    } else {
        format!("{killed_at_least} to {killed_at_most}")
    };
    text.push_str(&format!(
        "; {killed} of {} requests would have been killed for want of memory (none used more than {largest_peak_mb} MB)",
        sum.requests
    ));
    output::line(text)
}

/// `value / unit` with one decimal.
fn tenths(value: u64, unit: u64) -> String {
    format!("{:.1}", value as f64 / unit as f64)
}

/// Reads `memory_mb=N`.
pub(crate) fn parse_what_if(text: &str) -> Result<u32> {
    let number = text
        .strip_prefix("memory_mb=")
        .context("only memory_mb=N can be supposed")?;
    let memory_mb: u32 = number.parse().context("memory_mb is a whole number")?;
    anyhow::ensure!(
        (16..=10_240).contains(&memory_mb),
        "memory_mb is 16 to 10240"
    );
    Ok(memory_mb)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{OutputArgs, WorkerSocketArgs};

    fn args() -> CostArgs {
        CostArgs {
            name: Some("f".to_owned()),
            version: None,
            caller: None,
            window: None,
            what_if: Some(64),
            prices: None,
            workers: WorkerSocketArgs { worker: Vec::new() },
            output: OutputArgs { json: false },
        }
    }

    fn report(worker: &str, lines: &[(&str, u32, &str, u64)]) -> BillReport {
        let line = |(function, version, caller, cpu_ns): &(&str, u32, &str, u64)| BillLine {
            function: (*function).to_owned(),
            version: *version,
            memory_mb: 128,
            caller: (*caller).to_owned(),
            sum: Line {
                requests: 1,
                cpu_ns: *cpu_ns,
                ..Line::default()
            },
        };
        BillReport {
            worker: worker.to_owned(),
            seconds: 5,
            lines: lines.iter().map(line).collect(),
            unbilled: Vec::new(),
        }
    }

    #[test]
    fn workers_are_added_up_and_others_left_out() {
        let reports = vec![
            report(
                "a",
                &[("f", 1, "x", 5), ("f", 2, "x", 7), ("g", 1, "x", 100)],
            ),
            report("b", &[("f", 1, "x", 6), ("f", 1, "y", 1)]),
        ];
        let report = reckon(reports, &args(), None);
        let rows: Vec<_> = report
            .lines
            .iter()
            .map(|row| {
                (
                    row.bill.version,
                    row.bill.caller.as_str(),
                    row.bill.sum.cpu_ns,
                )
            })
            .collect();
        assert_eq!(rows, [(1, "x", 11), (2, "x", 7), (1, "y", 1)]);
        assert_eq!(report.total.bill.sum.cpu_ns, 19);
        assert_eq!(report.workers, ["a", "b"]);
    }

    #[test]
    fn only_a_possible_limit_can_be_supposed() {
        assert_eq!(parse_what_if("memory_mb=64").unwrap(), 64);
        for bad in [
            "64",
            "memory_mb=",
            "memory_mb=x",
            "memory_mb=1",
            "memory_mb=99999",
            "cpu=3",
        ] {
            assert!(parse_what_if(bad).is_err(), "{bad}");
        }
    }
}
