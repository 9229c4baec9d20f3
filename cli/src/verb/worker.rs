//! `warmpath worker drain|undrain`: take a worker out of rotation, and back.

use anyhow::Result;
use balancer_userspace::{api::types::WorkerStatus, client::AdminClient};

use crate::{
    args::{AdminArgs, OutputArgs},
    output::{self, Exit},
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
