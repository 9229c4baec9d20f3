//! `warmpath fn dead`: calls that nobody waited for and that were given up; to be tried once more.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use warmpath_sdk::{
    Client, ClientConfig,
    deferred::{Ask, DeadCalls, Report, SHELVES, State},
    http,
};

use crate::{
    args::DeadArgs,
    output::{self, Exit, Table},
};

/// How long one shelf may take to answer.
const BUDGET: Duration = Duration::from_secs(5);

pub(super) async fn run(args: &DeadArgs) -> Result<Exit> {
    let client = Client::connect(args.vip, ClientConfig::default())?;
    match args.retry {
        Some(id) => retry(&client, &Ask::Retry { id }, args).await,
        None => list(&client, args).await,
    }
}

async fn list(client: &Client, args: &DeadArgs) -> Result<Exit> {
    let mut dead = Vec::new();
    for shelf in 0..SHELVES {
        let call = Ask::Dead { shelf }.call(b"")?.budget(BUDGET);
        let answer = client.call(call).await;
        let answer = answer.with_context(|| format!("list the dead letters of shelf {shelf}"))?;
        let (listed, _) = http::split::<DeadCalls>(&answer.payload)?;
        dead.extend(
            listed
                .calls
                .into_iter()
                .filter(|call| is_of(call, &args.name)),
        );
    }
    if args.output.json {
        output::json(&dead)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["id", "function", "attempts", "last status"]);
    for call in dead {
        table.row(vec![
            call.id.to_string(),
            call.function,
            call.attempts.to_string(),
            call.status.unwrap_or_default(),
        ]);
    }
    table.print()?;
    Ok(Exit::Ok)
}

/// Whether it is a call of `name`, under any version or alias.
fn is_of(call: &Report, name: &str) -> bool {
    call.function.split('@').next() == Some(name) || call.function == name
}

async fn retry(client: &Client, ask: &Ask, args: &DeadArgs) -> Result<Exit> {
    let answer = client.call(ask.call(b"")?.budget(BUDGET)).await;
    let answer = answer.context("try the call once more")?;
    let (report, _) = http::split::<Report>(&answer.payload)?;
    if args.output.json {
        output::json(&report)?;
    }
    match report.state {
        State::Unknown => bail!(
            "no call {} is kept: look at `warmpath fn dead {}`",
            report.id,
            args.name
        ),
        _ if args.output.json => {}
        State::Pending | State::Running => {
            output::line(format_args!(
                "{} of {} is tried once more",
                report.id, report.function
            ))?;
        }
        State::Done | State::Failed => {
            output::line(format_args!(
                "{} of {} was not given up",
                report.id, report.function
            ))?;
        }
    }
    Ok(Exit::Ok)
}
