//! `warmpath status`: control plane, workers and counters. While the control plane is down, what the
//! kernel's own maps say.

use anyhow::Result;
use balancer_userspace::{
    api::types::{CounterValue, Status, WorkerStatus},
    client::{AdminClient, AdminError},
    maps,
};
use serde::Serialize;

use crate::{
    args::{AdminArgs, OutputArgs, PinArgs},
    output::{self, Exit, Table},
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// None while the control plane is down.
    control_plane: Option<Status>,
    workers: Vec<WorkerStatus>,
    counters: Vec<CounterValue>,
}

pub(super) async fn status(admin: &AdminArgs, pins: &PinArgs, output: &OutputArgs) -> Result<Exit> {
    let (report, exit) = match from_control_plane(admin).await {
        Ok(report) => (report, Exit::Ok),
        Err(error) => {
            let counters = maps::counters(&pins.pin_path)?;
            output::talk(format_args!(
                "warmpath: {error}; the counters below are the kernel's own"
            ));
            (
                Report {
                    control_plane: None,
                    workers: Vec::new(),
                    counters,
                },
                Exit::Failed,
            )
        }
    };
    if output.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(exit)
}

async fn from_control_plane(admin: &AdminArgs) -> Result<Report, AdminError> {
    let client = AdminClient::new(&admin.admin)?;
    Ok(Report {
        control_plane: Some(client.status().await?),
        workers: client.workers().await?,
        counters: client.counters().await?,
    })
}

fn print(report: &Report) -> Result<()> {
    if let Some(status) = &report.control_plane {
        print_control_plane(status)?;
        output::line("")?;
        print_workers(&report.workers)?;
        output::line("")?;
    }
    print_counters(&report.counters)
}

fn print_control_plane(status: &Status) -> Result<()> {
    output::line(format_args!(
        "balancer {} pid {} up {} s, program {} tag {}{}",
        status.version,
        status.pid,
        status.uptime_ms / 1000,
        status.program_id,
        status.program_tag,
        if status.adopted { ", adopted" } else { "" },
    ))?;
    for interface in &status.interfaces {
        let mode = interface.mode.as_deref().unwrap_or("not attached");
        output::line(format_args!("interface {} {mode}", interface.name))?;
    }
    output::line(format_args!(
        "keys of epoch {}, {}",
        status.key_epoch,
        if status.keys_shared {
            "shared with other balancers"
        } else {
            "this balancer's own"
        },
    ))?;
    output::line(format_args!(
        "{} of {} workers up, {} functions, {} VIPs, {} map writes pending",
        status.workers_up, status.workers, status.functions, status.vips, status.writes_pending,
    ))
}

fn print_workers(workers: &[WorkerStatus]) -> Result<()> {
    let mut table = Table::new(&[
        "id",
        "worker",
        "state",
        "address",
        "in_flight",
        "capacity",
        "slots",
        "warm",
    ]);
    for worker in workers {
        table.row(vec![
            worker.id.to_string(),
            worker.name.clone(),
            state(worker),
            worker.address.to_string(),
            worker.in_flight.to_string(),
            worker.capacity.to_string(),
            joined(&worker.slots),
            joined(&worker.warm),
        ]);
    }
    table.print()
}

fn state(worker: &WorkerStatus) -> String {
    if worker.presumed {
        format!("{} (presumed)", worker.state)
    } else {
        worker.state.clone()
    }
}

/// Counters that are not zero.
pub(super) fn print_counters(counters: &[CounterValue]) -> Result<()> {
    let mut table = Table::new(&["class", "counter", "packets"]);
    for counter in counters.iter().filter(|counter| counter.value > 0) {
        table.row(vec![
            counter.class.clone(),
            counter.label.clone(),
            counter.value.to_string(),
        ]);
    }
    table.print()
}

fn joined(words: &[String]) -> String {
    if words.is_empty() {
        "-".into()
    } else {
        words.join(",")
    }
}
