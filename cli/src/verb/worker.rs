//! `warmpath worker drain|undrain|decap`: take a worker out of rotation, and back; look at its XDP program.

use std::path::Path;

use anyhow::Result;
use balancer_userspace::{
    api::types::{DecapStatus, WorkerStatus},
    client::AdminClient,
    maps,
};

use crate::{
    args::{AdminArgs, OutputArgs},
    output::{self, Exit},
    verb::status::print_counters,
};

pub(super) async fn drain(name: &str, admin: &AdminArgs, output: &OutputArgs) -> Result<Exit> {
    report(&AdminClient::new(&admin.admin)?.drain(name).await?, output)
}

pub(super) async fn undrain(name: &str, admin: &AdminArgs, output: &OutputArgs) -> Result<Exit> {
    report(
        &AdminClient::new(&admin.admin)?.undrain(name).await?,
        output,
    )
}

fn report(worker: &WorkerStatus, output: &OutputArgs) -> Result<Exit> {
    if output.json {
        output::json(worker)?;
        return Ok(Exit::Ok);
    }
    output::line(format_args!(
        "{} is {}, {} requests in flight",
        worker.name, worker.state, worker.in_flight
    ))?;
    Ok(Exit::Ok)
}

/// Fails if the program is not on its interface: then nothing is taken off, whatever its maps say.
pub(super) fn decap(pin_path: &Path, output: &OutputArgs) -> Result<Exit> {
    let status = maps::decap_status(pin_path)?;
    if output.json {
        output::json(&status)?;
    } else {
        print_decap(&status)?;
    }
    Ok(if status.attached {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

fn print_decap(status: &DecapStatus) -> Result<()> {
    let interface = status.interface.as_deref().unwrap_or("?");
    let attached = if status.attached {
        status.mode.as_str()
    } else {
        "not attached: its worker was killed, and takes these pins away when it starts again"
    };
    output::line(format_args!(
        "interface {interface} ({}) {attached}",
        status.ifindex
    ))?;
    output::line(format_args!("addresses {}", status.addresses.join(", ")))?;
    output::line(format_args!("sources {}", status.sources.join(", ")))?;
    output::line("")?;
    print_counters(&status.counters)
}
