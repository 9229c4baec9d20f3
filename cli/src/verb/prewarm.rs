//! `warmpath fn prewarm`: code and instances where a function is about to be called.
//!
//! Ordered at the control plane, which spreads and keeps them, or asked of workers of this machine, which start them
//! and leave them to idle as any.

use anyhow::{Context as _, Result};
use balancer_userspace::{
    api::types::{OrderRequest, PrewarmStatus, WarmWorker},
    client::AdminClient,
};
use worker::{api::client::WorkerClient, pool::PrewarmRequest};

use crate::{
    args::PrewarmArgs,
    output::{self, Exit, Table},
};

pub(super) async fn run(args: &PrewarmArgs) -> Result<Exit> {
    let Some(name) = &args.name else {
        return list(args).await;
    };
    if !args.worker.is_empty() {
        return on_workers(name, args).await;
    }
    let context = || format!("prewarm {name}");
    let client = AdminClient::new(&args.admin.admin)?;
    if args.withdraw {
        let status = client.withdraw_prewarm(name).await;
        return withdrawn(&status.with_context(context)?, args);
    }
    let order = OrderRequest {
        function: name.clone(),
        count: args.count,
        workers: args.workers,
        seconds: args.seconds,
        wait_ms: args.timeout.saturating_mul(1_000),
    };
    let status = client.prewarm(&order).await.with_context(context)?;
    show(std::slice::from_ref(&status), args)?;
    if status.missing > 0 {
        output::talk(format_args!(
            "{} of {} are missing yet; the order stands: `warmpath worker pool` shows memory and limits, the worker's log why a start failed",
            status.missing, status.count
        ));
    }
    if status.code_missing > 0 {
        output::talk(format_args!(
            "{} of {} workers have not the code yet; the order stands: a worker's log says why it cannot be had",
            status.code_missing, status.code_workers
        ));
    }
    Ok(if status.is_met() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

async fn list(args: &PrewarmArgs) -> Result<Exit> {
    let all = AdminClient::new(&args.admin.admin)?.prewarms().await?;
    show(&all, args)?;
    Ok(Exit::Ok)
}

fn withdrawn(status: &PrewarmStatus, args: &PrewarmArgs) -> Result<Exit> {
    if args.output.json {
        output::json(status)?;
    } else {
        let orders = status.orders.len();
        output::line(format_args!(
            "{}: {orders} withdrawn; its instances idle as any, its code stays where it is",
            status.function
        ))?;
    }
    Ok(Exit::Ok)
}

fn show(all: &[PrewarmStatus], args: &PrewarmArgs) -> Result<()> {
    if args.output.json {
        return output::json(&all);
    }
    table(all).print()
}

/// A row for each order, with how far its function is: with its instances, or in an order of code with that.
fn table(all: &[PrewarmStatus]) -> Table {
    let headings = [
        "function", "ordered", "ends in", "min", "live", "missing", "workers",
    ];
    let mut table = Table::new(&headings);
    for status in all {
        for order in &status.orders {
            let (ordered, missing, workers) = if order.count == 0 {
                let places = order
                    .workers
                    .map_or_else(|| "all".to_owned(), |n| n.to_string());
                let ordered = format!("code on {places}");
                (ordered, status.code_missing, with_code(&status.workers))
            } else {
                let ordered = order.count.to_string();
                (ordered, status.missing, with_instances(&status.workers))
            };
            table.row(vec![
                status.function.clone(),
                ordered,
                span(order.ends_in_ms.div_ceil(1_000)),
                status.min_warm.to_string(),
                status.live.to_string(),
                missing.to_string(),
                workers,
            ]);
        }
    }
    table
}

/// Who keeps how many instances of how many.
fn with_instances(workers: &[WarmWorker]) -> String {
    let parts = workers.iter().filter(|part| part.wanted > 0);
    let parts: Vec<String> = parts
        .map(|part| format!("{} {}/{}", part.worker, part.live, part.wanted))
        .collect();
    parts.join(", ")
}

/// Who has the code, of those that are to.
fn with_code(workers: &[WarmWorker]) -> String {
    let parts = workers.iter().filter_map(|part| {
        let said = if part.code? { "has it" } else { "not yet" };
        Some(format!("{} {said}", part.worker))
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// Seconds in the two largest units that say something.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

async fn on_workers(name: &str, args: &PrewarmArgs) -> Result<Exit> {
    let request = PrewarmRequest {
        function: name.to_owned(),
        count: args.count,
    };
    let mut reports = Vec::new();
    for socket in &args.worker {
        let answered = WorkerClient::new(socket)?.prewarm(&request).await;
        let report = answered.with_context(|| format!("prewarm {name}"))?;
        reports.push(report);
    }
    let is_short = reports
        .iter()
        .any(|report| report.live < args.count as usize);
    if args.output.json {
        output::json(&reports)?;
    } else {
        let mut table = Table::new(&["worker", "function", "version", "live", "started"]);
        for report in reports {
            table.row(vec![
                report.worker,
                report.function,
                report.version.to_string(),
                report.live.to_string(),
                report.started.to_string(),
            ]);
        }
        table.print()?;
    }
    if is_short {
        output::talk(format_args!(
            "fewer than {} live: `warmpath worker pool` shows memory and limits, the worker's log why a start failed",
            args.count
        ));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use balancer_userspace::api::types::OrderStatus;

    use super::*;

    #[test]
    fn each_order_is_a_row_with_what_lives_where() {
        let part = |worker: &str, wanted, live, code| WarmWorker {
            worker: worker.to_owned(),
            wanted,
            live,
            code,
        };
        let order = |count, workers, ends_in_ms| OrderStatus {
            count,
            workers,
            ends_in_ms,
        };
        let status = PrewarmStatus {
            function: "hello@latest".to_owned(),
            count: 3,
            min_warm: 1,
            orders: vec![
                order(3, None, 59_001),
                order(2, None, 3_661_000),
                order(0, Some(2), 1_000),
                order(0, None, 500),
            ],
            live: 2,
            missing: 1,
            code_workers: 3,
            code_missing: 2,
            workers: vec![
                part("w0", 2, 1, Some(true)),
                part("w1", 1, 1, None),
                part("w2", 0, 0, Some(false)),
            ],
        };
        let text = table(&[status]).to_string();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|cell| !cell.is_empty())
                    .collect()
            })
            .collect();
        let workers = "w0 1/2, w1 1/1";
        assert_eq!(
            rows[1],
            ["hello@latest", "3", "1m0s", "1", "2", "1", workers]
        );
        assert_eq!(rows[2][..3], ["hello@latest", "2", "1h1m"]);
        let workers = "w0 has it, w2 not yet";
        assert_eq!(
            rows[3],
            ["hello@latest", "code on 2", "1s", "1", "2", "2", workers]
        );
        assert_eq!(rows[4][1], "code on all");
        assert_eq!(
            (span(59), span(90_000)),
            ("59s".to_owned(), "1d1h".to_owned())
        );
    }
}
