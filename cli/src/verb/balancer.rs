//! `warmpath balancer detach`: take the data plane down on purpose.

use anyhow::Result;
use balancer_userspace::maps;

use crate::{
    args::{OutputArgs, PinArgs},
    output::{self, Exit},
};

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
