//! `warmpath fn prewarm`: code and instances where a function is about to be called.

use anyhow::{Context as _, Result};
use worker::{api::client::WorkerClient, pool::PrewarmRequest};

use crate::{
    args::PrewarmArgs,
    output::{self, Exit, Table},
};

pub(super) async fn run(args: &PrewarmArgs) -> Result<Exit> {
    let request = PrewarmRequest {
        function: args.name.clone(),
        count: args.count,
    };
    let mut reports = Vec::new();
    for socket in &args.workers.worker {
        let answered = WorkerClient::new(socket)?.prewarm(&request).await;
        let report = answered.with_context(|| format!("prewarm {}", args.name))?;
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
