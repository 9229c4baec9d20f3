//! `warmpath worker parked`: the requests that wait on a worker without an instance.

use std::path::Path;

use anyhow::Result;
use worker::api::client::WorkerClient;

use crate::{
    args::OutputArgs,
    output::{self, Exit, Table},
};

pub(super) async fn run(socket: &Path, output: &OutputArgs) -> Result<Exit> {
    let report = WorkerClient::new(socket)?.parked().await?;
    if output.json {
        output::json(&report)?;
        return Ok(Exit::Ok);
    }
    output::line(format_args!(
        "{} requests parked, {} bytes",
        report.parked, report.bytes
    ))?;
    let mut functions = Table::new(&["function", "parked"]);
    for (function, parked) in &report.by_function {
        functions.row(vec![function.clone(), parked.to_string()]);
    }
    functions.print()?;
    output::line("")?;
    let mut soonest = Table::new(&["request", "function", "slot", "cursor", "left ms"]);
    let shown = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
    for request in report.soonest {
        soonest.row(vec![
            format!("{:016x}", request.request_id),
            request.function,
            shown(request.slot.map(|slot| slot.to_string())),
            shown(request.cursor.map(|cursor| cursor.to_string())),
            request.left_ms.to_string(),
        ]);
    }
    soonest.print()?;
    Ok(Exit::Ok)
}
