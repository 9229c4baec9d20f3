//! `warmpath balancer detach|rotate-keys`: take the data plane down on purpose; make new keys.

use anyhow::Result;
use balancer_userspace::{client::AdminClient, maps};

use crate::{
    args::{AdminArgs, OutputArgs, PinArgs},
    output::{self, Exit},
};

pub(super) async fn rotate_keys(admin: &AdminArgs, output: &OutputArgs) -> Result<Exit> {
    let keys = AdminClient::new(&admin.admin)?.rotate_keys().await?;
    if output.json {
        output::json(&keys)?;
        return Ok(Exit::Ok);
    }
    output::line(format_args!(
        "the keys are of epoch {}; those of the epoch before are valid until the next",
        keys.epoch
    ))?;
    Ok(Exit::Ok)
}

pub(super) fn detach(pins: &PinArgs, output: &OutputArgs) -> Result<Exit> {
    let detached = maps::detach(&pins.pin_path)?;
    if output.json {
        output::json(&detached)?;
        return Ok(Exit::Ok);
    }
    output::line(format_args!(
        "detached from {} interfaces; {} is gone",
        detached.links,
        pins.pin_path.display()
    ))?;
    Ok(Exit::Ok)
}
