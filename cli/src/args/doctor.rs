//! `warmpath doctor`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{OutputArgs, PinArgs};

/// What to look at.
#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// The interface; without it, those of the configuration
    pub(crate) interface: Option<String>,
    /// The balancer's configuration: its interfaces, and the sizes of its tables
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A worker's configuration: what it takes encapsulations off
    #[arg(long, value_name = "FILE")]
    pub(crate) worker_config: Option<PathBuf>,
    /// What the machine shall be good for
    #[arg(long, value_enum, default_value_t = DoctorRole::All)]
    pub(crate) role: DoctorRole,
    /// Bytes of the largest IP packet that clients send
    #[arg(long, value_name = "BYTES", default_value_t = 1_500)]
    pub(crate) vip_mtu: u32,
    /// Attach a program that passes everything, for a moment and only where none is: some drivers stop for it
    #[arg(long = "try")]
    pub(crate) trial: bool,
    #[command(flatten)]
    pub(crate) pins: PinArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A part of the platform that a machine can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DoctorRole {
    /// The balancer
    Balancer,
    /// A worker
    Worker,
    /// Both
    All,
}
