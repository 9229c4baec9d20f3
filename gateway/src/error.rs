//! Why the gateway could not start or go on.

use std::{io, net::SocketAddr, path::PathBuf};

use warmpath_sdk::ConnectError;

/// Why [`crate::Config::load`] failed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not TOML, or has keys or types that are not ours.
    #[error("cannot understand the configuration {}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what.
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("configuration {}: {problem}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What to change.
        problem: &'static str,
    },
}

/// Why [`crate::run`] ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address} for {purpose}: is the address on this host and the port free?"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What would be served there.
        purpose: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The VIP cannot be reached.
    #[error("cannot open a socket to the VIP")]
    Vip(#[from] ConnectError),
    /// The metrics registry refuses a metric.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
}
