//! `warmpath worker streams`: the streams that a worker has offered and that go on.

use std::path::Path;

use anyhow::Result;
use worker::api::client::WorkerClient;

use crate::{
    args::OutputArgs,
    output::{self, Exit, Table},
};

pub(super) async fn run(socket: &Path, output: &OutputArgs) -> Result<Exit> {
    let report = WorkerClient::new(socket)?.streams().await?;
    if output.json {
        output::json(&report)?;
        return Ok(Exit::Ok);
    }
    let Some(listen) = report.listen else {
        output::line("this worker serves no streams: `[stream] enabled` is off")?;
        return Ok(Exit::Ok);
    };
    output::line(format_args!(
        "{} streams open, {} offered, at {listen}",
        report.open, report.offered
    ))?;
    let mut functions = Table::new(&["function", "streams"]);
    for (function, streams) in &report.by_function {
        functions.row(vec![function.clone(), streams.to_string()]);
    }
    functions.print()?;
    output::line("")?;
    let mut oldest = Table::new(&[
        "request",
        "function",
        "caller",
        "state",
        "age ms",
        "bytes in",
        "bytes out",
    ]);
    for stream in report.oldest {
        oldest.row(vec![
            format!("{:016x}", stream.request_id),
            stream.function,
            stream.caller.to_string(),
            if stream.open { "open" } else { "offered" }.to_owned(),
            stream.age_ms.to_string(),
            stream.bytes_in.to_string(),
            stream.bytes_out.to_string(),
        ]);
    }
    oldest.print()?;
    Ok(Exit::Ok)
}
