//! Why the worker could not start.

use std::{io, net::SocketAddr, path::PathBuf};

use balancer_userspace::maps::DecapError;

use crate::{api::SocketError, pool::PoolError, rpc::BindError};

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
        problem: String,
    },
}

/// Why [`crate::run`] ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The shared secret cannot be read.
    #[error("cannot read the membership token {}: it must be the balancer's `token_file`", .path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interfaces of this host cannot be listed.
    #[error("cannot list the network interfaces of this host")]
    Interfaces {
        /// What the kernel said.
        source: nix::errno::Errno,
    },
    /// The configured interface has no MAC address here.
    #[error("no interface `{name}` with a MAC address: set `interface` to one of {known}")]
    NoInterface {
        /// The configured name.
        name: String,
        /// Those that would do.
        known: String,
    },
    /// There can be no more threads.
    #[error("cannot start the thread that tells the balancer of the load")]
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory of our own cannot be made.
    #[error("cannot make the state directory {}", .path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The store's address makes no sense.
    #[error("`store_url` is not usable")]
    Store(#[from] store::ClientError),
    /// The database engine cannot be opened.
    #[error("cannot open the database")]
    Db(#[from] db::engine::embedded::OpenError),
    /// Encapsulated packets cannot be taken.
    #[error("cannot take encapsulated packets ([decap])")]
    Decap(#[source] Box<DecapError>),
    /// Sandboxes cannot be made here.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// An RPC address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A TCP address cannot be listened on.
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
    /// The admin socket cannot be made.
    #[error(transparent)]
    Admin(#[from] SocketError),
    /// The worker cannot call its own RPC server.
    #[error(
        "cannot open a socket to this worker's own RPC address, for calls that nobody waits for"
    )]
    Calls(#[from] warmpath_sdk::ConnectError),
    /// The metrics registry refuses a metric.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// A task of ours was cut short while starting.
    #[error("starting was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl From<DecapError> for RunError {
    fn from(error: DecapError) -> Self {
        Self::Decap(Box::new(error))
    }
}
