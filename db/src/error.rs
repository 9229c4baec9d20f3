//! Why an op failed: one enum for engine, server, client and router, because all four give it to the
//! same reader, a handler that must know whose fault it is and whether to try again.

pub use ebpf_common::wire::Fault;

use serde::{Deserialize, Serialize};

use crate::{
    limits::{KEY_BYTES_MAX, ROWS_MAX, VALUE_BYTES_MAX},
    slots::SlotSet,
};

/// Why an op failed. It crosses the network whole, tagged by [`DbError::kind`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DbError {
    /// An empty key, or one beyond the limit.
    #[error("a key must have 1 to {KEY_BYTES_MAX} bytes, not {given}")]
    KeyLength {
        /// Its length.
        given: usize,
    },
    /// A value beyond the limit.
    #[error("a value may have at most {VALUE_BYTES_MAX} bytes, not {given}")]
    ValueLength {
        /// Its length.
        given: usize,
    },
    /// A limit of no rows, or of too many.
    #[error("the limit must be 1 to {ROWS_MAX}, not {given}")]
    Limit {
        /// The refused limit.
        given: u32,
    },
    /// A slot number beyond the last.
    #[error("there is no slot {slot}; slots are 0 to 16383")]
    BadSlot {
        /// The refused number.
        slot: u16,
    },
    /// A scan whose prefix does not keep its keys in one slot.
    #[error(
        "a scan's prefix must hold a hash tag such as `{{user42}}`, so that its keys share one slot"
    )]
    ScanWithoutTag,
    /// Bytes that are no op.
    #[error("the bytes received are no database op: {reason}")]
    Malformed {
        /// What is wrong with them.
        reason: String,
    },
    /// Nobody live is known to own the slot.
    #[error("no live shard owns slot {slot}; try again when one has taken it over")]
    NoOwner {
        /// The slot.
        slot: u16,
    },
    /// The server asked does not own the slot.
    #[error("slot {slot} is not owned here (owned: {owned}); refresh the slot map and try again")]
    Moved {
        /// The slot.
        slot: u16,
        /// What the server owns.
        owned: SlotSet,
    },
    /// The owner's server gave no answer. A write may or may not have been done.
    #[error("the shard at {url} did not answer: {reason}")]
    Unreachable {
        /// The server.
        url: String,
        /// Why.
        reason: String,
        /// Whether the request may have reached it.
        sent: bool,
    },
    /// The owner's server answered with something that is not of this protocol.
    #[error("the answer of {url} is not that of a warmpath db: {reason}")]
    BadAnswer {
        /// The server.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Too many ops wait for the engine.
    #[error("the database has too many writes waiting; try again shortly")]
    Busy,
    /// Free space is below the reserve. Nothing was written; everything committed is safe and readable.
    #[error(
        "the database's disk is full ({free_bytes} bytes free, {reserve_bytes} kept in reserve): free some space"
    )]
    DiskFull {
        /// Bytes free on the file system.
        free_bytes: u64,
        /// Bytes that are kept free.
        reserve_bytes: u64,
    },
    /// A commit's write or sync failed: it may or may not be found when the engine is opened again.
    #[error(
        "the commit failed, so the database takes no more writes until it is restarted: {reason}"
    )]
    CommitFailed {
        /// What the engine said.
        reason: String,
    },
    /// An earlier commit failed.
    #[error(
        "the database takes no writes since an earlier commit failed; mend the disk and restart it"
    )]
    Poisoned,
    /// Stored data could not be read.
    #[error("the database cannot read its data: {reason}")]
    Read {
        /// What the engine said.
        reason: String,
    },
    /// The engine is being closed.
    #[error("the database is stopping")]
    Stopping,
}

impl DbError {
    /// One stable word for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::KeyLength { .. } => "key_length",
            Self::ValueLength { .. } => "value_length",
            Self::Limit { .. } => "limit",
            Self::BadSlot { .. } => "bad_slot",
            Self::ScanWithoutTag => "scan_without_tag",
            Self::Malformed { .. } => "malformed",
            Self::NoOwner { .. } => "no_owner",
            Self::Moved { .. } => "moved",
            Self::Unreachable { .. } => "unreachable",
            Self::BadAnswer { .. } => "bad_answer",
            Self::Busy => "busy",
            Self::DiskFull { .. } => "disk_full",
            Self::CommitFailed { .. } => "commit_failed",
            Self::Poisoned => "poisoned",
            Self::Read { .. } => "read",
            Self::Stopping => "stopping",
        }
    }

    /// Whose fault it is: the caller's, or the platform's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::KeyLength { .. }
            | Self::ValueLength { .. }
            | Self::Limit { .. }
            | Self::BadSlot { .. }
            | Self::ScanWithoutTag
            | Self::Malformed { .. } => Fault::Caller,
            _ => Fault::Platform,
        }
    }

    /// Whether the same op may succeed later *and* is known not to have been done: a failed commit, or a
    /// request that may have reached its shard, is for the caller to judge.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoOwner { .. }
            | Self::Moved { .. }
            | Self::Busy
            | Self::DiskFull { .. }
            | Self::Stopping => true,
            Self::Unreachable { sent, .. } => !*sent,
            _ => false,
        }
    }

    /// The HTTP status that the server answers with.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Moved { .. } => 421,
            Self::Busy | Self::NoOwner { .. } | Self::Stopping => 503,
            Self::DiskFull { .. } => 507,
            Self::Unreachable { .. } | Self::BadAnswer { .. } => 502,
            Self::CommitFailed { .. } | Self::Poisoned | Self::Read { .. } => 500,
            _ => 400,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_the_network_whole_and_under_its_kind() {
        let slots = SlotSet::new(vec!["0-9".parse().unwrap()]).unwrap();
        for error in [
            DbError::KeyLength { given: 0 },
            DbError::ValueLength { given: 2_000_000 },
            DbError::Limit { given: 0 },
            DbError::BadSlot { slot: 20_000 },
            DbError::ScanWithoutTag,
            DbError::Malformed {
                reason: "x".to_owned(),
            },
            DbError::NoOwner { slot: 1 },
            DbError::Moved {
                slot: 10,
                owned: slots,
            },
            DbError::Unreachable {
                url: "u".to_owned(),
                reason: "r".to_owned(),
                sent: true,
            },
            DbError::BadAnswer {
                url: "u".to_owned(),
                reason: "r".to_owned(),
            },
            DbError::Busy,
            DbError::DiskFull {
                free_bytes: 1,
                reserve_bytes: 2,
            },
            DbError::CommitFailed {
                reason: "r".to_owned(),
            },
            DbError::Poisoned,
            DbError::Read {
                reason: "r".to_owned(),
            },
            DbError::Stopping,
        ] {
            let body = crate::ErrorBody::from(error.clone());
            let json = serde_json::to_value(&body).unwrap();
            assert_eq!(json["kind"], error.kind());
            let back: crate::ErrorBody = serde_json::from_value(json).unwrap();
            assert_eq!(back.detail, error);
            assert!(!error.to_string().contains('\n'));
        }
    }
}
