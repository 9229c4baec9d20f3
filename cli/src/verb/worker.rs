//! `warmpath worker drain|undrain`: take a worker out of rotation, and back.

use anyhow::Result;
use balancer_userspace::{api::types::WorkerStatus, client::AdminClient};

use crate::{
    args::AdminArgs,
    output::{self, Exit},
};

pub(super) async fn drain(name: &str, admin: &AdminArgs) -> Result<Exit> {
    report(&AdminClient::new(&admin.admin)?.drain(name).await?)
}

pub(super) async fn undrain(name: &str, admin: &AdminArgs) -> Result<Exit> {
    report(&AdminClient::new(&admin.admin)?.undrain(name).await?)
}

fn report(worker: &WorkerStatus) -> Result<Exit> {
    output::line(format_args!(
        "{} is {}, {} requests in flight",
        worker.name, worker.state, worker.in_flight
    ))?;
    Ok(Exit::Ok)
}
