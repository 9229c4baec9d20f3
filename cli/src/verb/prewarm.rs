//! `warmpath fn prewarm`: code and instances where a function is about to be called.
//!
//! Ordered at the control plane, which spreads and keeps them, or asked of workers of this machine, which start them
//! and leave them to idle as any.

use anyhow::{Context as _, Result};
use balancer_userspace::{
    api::types::{OrderRequest, PrewarmStatus},
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
        return Ok(Exit::Failed);
    }
    Ok(Exit::Ok)
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
            "{}: {orders} withdrawn; its instances idle as any",
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

/// A row for each order, with how far its function is.
fn table(all: &[PrewarmStatus]) -> Table {
    let headings = [
        "function", "ordered", "ends in", "min", "live", "missing", "workers",
    ];
    let mut table = Table::new(&headings);
    for status in all {
        let parts = status.workers.iter();
        let parts: Vec<String> = parts
            .map(|part| format!("{} {}/{}", part.worker, part.live, part.wanted))
            .collect();
        for order in &status.orders {
            table.row(vec![
                status.function.clone(),
                order.count.to_string(),
                span(order.ends_in_ms.div_ceil(1_000)),
                status.min_warm.to_string(),
                status.live.to_string(),
                status.missing.to_string(),
                parts.join(", "),
            ]);
        }
    }
    table
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
    use balancer_userspace::api::types::{OrderStatus, WarmWorker};

    use super::*;

    #[test]
    fn each_order_is_a_row_with_what_lives_where() {
        let part = |worker: &str, wanted, live| WarmWorker {
            worker: worker.to_owned(),
            wanted,
            live,
        };
        let order = |count, ends_in_ms| OrderStatus { count, ends_in_ms };
        let status = PrewarmStatus {
            function: "hello@latest".to_owned(),
            count: 3,
            min_warm: 1,
            orders: vec![order(3, 59_001), order(2, 3_661_000)],
            live: 2,
            missing: 1,
            workers: vec![part("w0", 2, 1), part("w1", 1, 1)],
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
        assert_eq!(
            (span(59), span(90_000)),
            ("59s".to_owned(), "1d1h".to_owned())
        );
    }
}
