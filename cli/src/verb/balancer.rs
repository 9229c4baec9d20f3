//! `warmpath balancer detach`: take the data plane down on purpose.

use anyhow::Result;
use balancer_userspace::maps;

use crate::{
    args::PinArgs,
    output::{self, Exit},
};

pub(super) fn detach(pins: &PinArgs) -> Result<Exit> {
    maps::detach(&pins.pin_path)?;
    output::line(format_args!(
        "detached; {} is gone",
        pins.pin_path.display()
    ))?;
    Ok(Exit::Ok)
}
