//! Why packages could not be had, whose fault that is, and what to do.

use std::{io, path::PathBuf, time::Duration};

use store::ClientError;

use crate::{archive::PackError, cell::CellError};

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Whoever wrote the requirements.
    Caller,
    /// Whoever runs the package index.
    Index,
    /// Whoever runs this machine, or the store.
    Platform,
}

/// Why there are no layers for what a function requires.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No index at that address.
    #[error(
        "the package index {host} cannot be reached ({reason}): is it up, and is it the one meant? pip and npm say where it is (`pip config list`, `npm config get registry`)"
    )]
    IndexDown {
        /// Where.
        host: String,
        /// What connecting said.
        reason: String,
    },
    /// Nothing came for too long.
    #[error(
        "the package index took longer than {limit:?}: try again, or give it longer with --resolve-timeout"
    )]
    Slow {
        /// How long it was given.
        limit: Duration,
    },
    /// The index answers with an error.
    #[error("the package index answers {status} for {what}: it has to be mended there")]
    IndexBroken {
        /// HTTP status.
        status: String,
        /// What was asked for.
        what: String,
    },
    /// A file is not what its hash says.
    #[error(
        "the index sent something else than was locked for {package}: do not deploy this; if the change is known to be right, remove the lock and deploy again"
    )]
    WrongHash {
        /// Which package.
        package: String,
    },
    /// No version fits.
    #[error("no version of {requirement} is to be had from the index for this Python: {known}")]
    NoVersion {
        /// What was asked for.
        requirement: String,
        /// Which versions there are.
        known: String,
    },
    /// Only as source, which would have to be built.
    #[error(
        "{requirement} exists only as source, and building it would run its code: require a version with a wheel, or put a wheel that you built into a folder that pip's `find-links` names"
    )]
    NeedsBuild {
        /// What was asked for.
        requirement: String,
    },
    /// Requirements that contradict each other.
    #[error("the requirements contradict each other: {reason}")]
    Conflict {
        /// What pip said.
        reason: String,
    },
    /// A line that is no requirement.
    #[error("{file} cannot be read: {reason}")]
    BadRequirements {
        /// Which file.
        file: String,
        /// What pip or npm said.
        reason: String,
    },
    /// A host that is not the index.
    #[error(
        "a package is to come from {host}, which is not the configured index: name it with --index-host if it is to be trusted"
    )]
    ForeignHost {
        /// Where.
        host: String,
    },
    /// More than a function may have.
    #[error("{given} packages are more than the {max} that a function may have")]
    TooMany {
        /// How many.
        given: usize,
        /// The limit.
        max: usize,
    },
    /// pip or npm is not there.
    #[error("{tool} cannot be used: {reason}")]
    NoTool {
        /// Which.
        tool: String,
        /// Why, and what to do.
        reason: String,
    },
    /// pip or npm failed in a way that is not known.
    #[error("{tool} failed: {reason}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// The end of what it said.
        reason: String,
    },
    /// The lock beside the requirements cannot be understood.
    #[error("{}, line {line}, is not what `warmpath fn deploy` writes: remove the file to resolve anew", path.display())]
    BadLock {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The cell could not be made.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// A folder of packages could not be packed.
    #[error("cannot make a layer")]
    Pack(#[from] PackError),
    /// The store did not take a layer.
    #[error("cannot store a layer")]
    Store(#[from] ClientError),
    /// A file of our own could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ResolveError {
    /// Who has to act.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::IndexDown { .. }
            | Self::Slow { .. }
            | Self::IndexBroken { .. }
            | Self::WrongHash { .. } => Fault::Index,
            Self::NoVersion { .. }
            | Self::NeedsBuild { .. }
            | Self::Conflict { .. }
            | Self::BadRequirements { .. }
            | Self::ForeignHost { .. }
            | Self::TooMany { .. }
            | Self::BadLock { .. } => Fault::Caller,
            Self::NoTool { .. }
            | Self::Tool { .. }
            | Self::Cell(_)
            | Self::Pack(_)
            | Self::Store(_)
            | Self::File { .. } => Fault::Platform,
        }
    }

    /// Whether the same attempt may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::IndexDown { .. } | Self::Slow { .. } | Self::IndexBroken { .. } => true,
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }
}
