//! `warmpath fn triggers`: how what calls a function by itself is doing.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use ebpf_common::ids::SlotId;
use serde::Serialize;
use store::{
    Catalog, CatalogEntry, StoreClient,
    trigger::{firing, utc},
};
use warmpath_sdk::{
    Client, ClientConfig,
    deferred::{Ask, CallId, Report, State},
    http,
    trigger::{TriggerAnswer, TriggerKind, TriggerReport, schedule_slot},
};

use crate::{
    args::TriggersArgs,
    output::{self, Exit, Table},
};

/// How long one owner may take to answer.
const BUDGET: Duration = Duration::from_secs(5);

/// What is shown of a trigger.
#[derive(Serialize)]
struct Shown {
    trigger: String,
    kind: TriggerKind,
    /// The times, or the prefix.
    pulled_by: String,
    /// What it calls.
    calls: String,
    version: u32,
    slot: u16,
    /// What its worker says of it; `null` if there is none.
    report: Option<TriggerReport>,
    /// Of a schedule: where its last call is.
    last_call: Option<Report>,
    /// Why its worker says nothing.
    error: Option<String>,
}

pub(super) async fn run(args: &TriggersArgs) -> Result<Exit> {
    let catalog = StoreClient::new(&args.store.store)?.catalog().await?;
    let mut shown = declared(entry(&catalog, &args.name)?);
    let client = Client::connect(args.vip, ClientConfig::default())?;
    for trigger in &mut shown {
        if let Err(error) = ask(&client, &args.name, trigger).await {
            trigger.error = Some(format!("{error:#}"));
        }
    }
    if args.output.json {
        output::json(&shown)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&[
        "trigger",
        "pulled by",
        "calls",
        "next",
        "last",
        "fired",
        "missed",
        "lag",
        "failed",
        "dead",
        "state",
    ]);
    for trigger in &shown {
        table.row(row(trigger));
    }
    table.print()?;
    Ok(Exit::Ok)
}

/// The version whose triggers are pulled.
fn entry<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a CatalogEntry> {
    let named = |qualified: &str| catalog.entries.iter().find(|it| it.qualified == qualified);
    if let Some(entry) = firing(name, named) {
        return Ok(entry);
    }
    let Some(latest) = named(&format!("{name}@latest")) else {
        bail!("the store has no function `{name}`: `warmpath fn list` shows those it has");
    };
    let alias = &latest.manifest.triggers.alias;
    bail!(
        "no trigger of `{name}` is pulled: its manifest names the alias `{alias}`, which it has not got: \
         `warmpath fn alias {name} {alias} VERSION` sets it"
    );
}

/// The triggers of a version, of which nothing is known yet.
fn declared(entry: &CatalogEntry) -> Vec<Shown> {
    let triggers = &entry.manifest.triggers;
    let shown = |trigger: &str, kind, pulled_by: String, slot: SlotId| Shown {
        trigger: trigger.to_owned(),
        kind,
        pulled_by,
        calls: entry.qualified.clone(),
        version: entry.version,
        slot: slot.0,
        report: None,
        last_call: None,
        error: None,
    };
    let schedules = triggers.schedule.iter().map(|it| {
        let zone = it.timezone.as_deref().unwrap_or("UTC");
        let slot = schedule_slot(&entry.name, &it.name);
        shown(
            &it.name,
            TriggerKind::Schedule,
            format!("{} {zone}", it.cron),
            slot,
        )
    });
    let feeds = triggers
        .feed
        .iter()
        .map(|it| shown(&it.name, TriggerKind::Feed, it.prefix.clone(), it.slot()));
    schedules.chain(feeds).collect()
}

/// Asks the owner of its slot.
async fn ask(client: &Client, function: &str, shown: &mut Shown) -> Result<()> {
    let question = Ask::Trigger {
        function: function.to_owned(),
        trigger: shown.trigger.clone(),
        slot: shown.slot,
    };
    let answer = client.call(question.call(b"")?.budget(BUDGET)).await;
    let answer = answer.with_context(|| format!("ask the owner of slot {}", shown.slot))?;
    let (answer, _) = http::split::<TriggerAnswer>(&answer.payload)?;
    shown.report = answer.report;
    let Some(report) = &shown.report else {
        bail!("the owner of slot {} does not pull it yet", shown.slot);
    };
    if let (TriggerKind::Schedule, Some(id)) = (report.kind, report.last_call) {
        shown.last_call = Some(outcome(client, id).await?);
    }
    Ok(())
}

async fn outcome(client: &Client, id: CallId) -> Result<Report> {
    let answer = client
        .call(Ask::Outcome { id }.call(b"")?.budget(BUDGET))
        .await;
    let answer = answer.with_context(|| format!("ask what became of the call {id}"))?;
    Ok(http::split::<Report>(&answer.payload)?.0)
}

fn row(shown: &Shown) -> Vec<String> {
    let time = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), utc);
    let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let report = shown.report.as_ref();
    let of_feed = report.filter(|_| shown.kind == TriggerKind::Feed);
    let of_schedule = report.filter(|_| shown.kind == TriggerKind::Schedule);
    vec![
        shown.trigger.clone(),
        shown.pulled_by.clone(),
        format!("{} (version {})", shown.calls, shown.version),
        time(report.and_then(|it| it.next_ms)),
        time(report.and_then(|it| it.last_ms)),
        known(report.map(|it| it.fired)),
        known(of_schedule.map(|it| it.missed)),
        known(of_feed.map(|it| it.lag)),
        known(of_feed.map(|it| it.failures)),
        known(of_feed.map(|it| it.dead)),
        state(shown),
    ]
}

/// What went wrong, or where it is.
fn state(shown: &Shown) -> String {
    let failed = shown
        .report
        .as_ref()
        .and_then(|report| report.error.clone());
    if let Some(error) = shown.error.clone().or(failed) {
        return error;
    }
    match (&shown.last_call, &shown.report) {
        (Some(call), _) if call.state == State::Failed => {
            format!(
                "last call given up: {}",
                call.status.as_deref().unwrap_or("no status")
            )
        }
        (Some(call), _) if call.state == State::Unknown => "last call forgotten".to_owned(),
        (Some(call), _) => format!("last call {:?}", call.state).to_lowercase(),
        (
            None,
            Some(TriggerReport {
                cursor: Some(cursor),
                ..
            }),
        ) => format!("at {cursor}"),
        (None, _) => "waits".to_owned(),
    }
}
