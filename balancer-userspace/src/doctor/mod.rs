//! `warmpath doctor`: whether this machine can carry the data plane or a worker, and what mends it.
//!
//! ```text
//! gather/ (asks kernel, driver, ip, ethtool) ─▶ Facts ─▶ judge/ (pure) ─▶ Report
//! ```
//! Nothing is changed. With [`Options::trial`] a program that passes everything is attached for a moment, and only
//! to an interface that has none.
//!
//! Invariants: [`judge`] sees nothing but [`Facts`]; what could not be asked is never called good.

mod facts;
mod gather;
mod judge;
mod report;

use std::path::PathBuf;

use thiserror::Error;

pub use self::{
    facts::Facts,
    report::{Check, Report, Verdict},
};
use crate::{
    config::{Config, ConfigError},
    decap::DecapConfig,
    object::{ObjectError, object},
};

/// What the machine shall be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The balancer.
    Balancer,
    /// A worker.
    Worker,
    /// Both.
    All,
}

impl Role {
    const fn has_balancer(self) -> bool {
        matches!(self, Self::Balancer | Self::All)
    }

    const fn has_worker(self) -> bool {
        matches!(self, Self::Worker | Self::All)
    }
}

/// What to look at.
#[derive(Debug, Clone)]
pub struct Options {
    /// The interface; without it those of the configuration.
    pub interface: Option<String>,
    /// The balancer's configuration: interfaces and the sizes of tables.
    pub config: Option<PathBuf>,
    /// Where the data plane is, or will be, pinned.
    pub pin_path: PathBuf,
    /// What the machine shall be good for.
    pub role: Role,
    /// Bytes of the largest IP packet that a client sends to a VIP.
    pub vip_mtu: u32,
    /// Attach a program for a moment to find out whether the driver takes one.
    pub trial: bool,
    /// `[decap]` of the worker's configuration, if it has one.
    pub decap: Option<DecapConfig>,
    /// What the worker's own check says, which this crate does not know.
    pub sandbox: Result<(), String>,
    /// The name of the system that sandboxes would have, or why they can have none; from the worker as well.
    pub rootfs: Result<String, String>,
    /// The version of Landlock that sandboxes use here, 0 for none; from the worker as well.
    pub landlock: u32,
}

/// Why nothing can be said.
#[derive(Debug, Error)]
pub enum DoctorError {
    /// There is no object in this binary.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The object in this binary cannot be read.
    #[error("the eBPF object of this binary is damaged: {problem}")]
    Damaged {
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration is not good.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Looks at this machine.
///
/// # Errors
/// The configuration or the binary itself cannot be used. What is wrong with the machine is in the report.
pub fn examine(options: &Options) -> Result<Report, DoctorError> {
    let config = options.config.as_deref().map(Config::load).transpose()?;
    let facts = gather::facts(options, config.as_ref(), object()?)?;
    Ok(judge::judge(&facts, options))
}
