//! Why there is no sandbox.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    cgroup::CgroupError, channel::ChannelError, forker::ForkerError, network::NetworkError,
};

/// Why a sandbox could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Its cgroup could not be made.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The socket to its init failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// It has no founder.
    #[error("cannot begin a sandbox")]
    Founder(#[from] ForkerError),
    /// Its init gave up.
    #[error("the sandbox's init says: {0}")]
    Init(String),
    /// A step on the worker's side failed.
    #[error("cannot {doing} {path}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It gets no network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// All handler user ids are taken.
    #[error("all {0} user ids for handlers are in use: raise sandbox.uid_count")]
    NoUid(u32),
}

/// That `doing` to `path` failed.
pub(super) fn failed<E: Into<io::Error>>(
    doing: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> SandboxError {
    let path = path.as_ref().to_owned();
    move |error| SandboxError::System {
        doing,
        path,
        source: error.into(),
    }
}

/// Init said what was not due.
pub(super) fn out_of_turn() -> SandboxError {
    SandboxError::Init("a report out of turn".to_owned())
}
