//! What can be asked of a shard, and what it answers.

use std::fmt;

use ebpf_common::{hash::slot_of_key, ids::SlotId};
use serde::{Deserialize, Serialize};

use crate::{
    error::DbError,
    limits::{KEY_BYTES_MAX, ROWS_MAX, VALUE_BYTES_MAX},
};

/// One operation on one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The value of `key`.
    Get {
        /// The key.
        key: Vec<u8>,
    },
    /// Sets `key` to `value`.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes `key`. Removing an absent key succeeds, and has a feed record like every write.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Sets `key` to `value` if it now holds `expected` (`None`: if it is absent).
    CompareAndSet {
        /// The key.
        key: Vec<u8>,
        /// What it must hold.
        expected: Option<Vec<u8>>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// The rows whose keys begin with `prefix`, in the order of their keys, within the slot of `prefix`.
    /// The prefix must hold a whole hash tag (`{user42}:`), for that is what keeps its keys in one slot.
    Scan {
        /// What the keys begin with.
        prefix: Vec<u8>,
        /// Only keys behind this one: the last key of the page before.
        after: Option<Vec<u8>>,
        /// Most rows to return; 1 to [`ROWS_MAX`].
        limit: u32,
    },
    /// The change-feed records of `slot` behind `cursor`, oldest first.
    Feed {
        /// The slot.
        slot: SlotId,
        /// The last record already seen; [`Cursor::START`] for none.
        cursor: Cursor,
        /// Most records to return; 1 to [`ROWS_MAX`].
        limit: u32,
    },
    /// Where the change feed of `slot` ends now: a [`Reply::Feed`] without records.
    Head {
        /// The slot.
        slot: SlotId,
    },
}

/// The answer to an [`Op`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To `Get`: the value, if the key is there.
    Value(Option<Vec<u8>>),
    /// To a write that is now durable.
    Written {
        /// Where its record stands in the slot's feed.
        cursor: Cursor,
    },
    /// To `CompareAndSet` that found something else; nothing was written.
    Conflict {
        /// What the key holds.
        current: Option<Vec<u8>>,
    },
    /// To `Scan`.
    Rows {
        /// In the order of their keys.
        rows: Vec<Row>,
        /// Whether there are more behind the last one: ask again with `after` set to its key.
        more: bool,
    },
    /// To `Feed`.
    Feed {
        /// In the order of their cursors, without a gap.
        records: Vec<FeedRecord>,
        /// Where to go on: the cursor of the last record, or the one asked from when there is none.
        next: Cursor,
    },
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// A place in the feed of one slot. The first record has cursor 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Cursor(pub u64);

impl Cursor {
    /// Before the first record.
    pub const START: Self = Self(0);
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One committed write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedRecord {
    /// Its place in the slot's feed.
    pub cursor: Cursor,
    /// The key written.
    pub key: Vec<u8>,
    /// What happened to it.
    pub change: Change,
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key got this value.
    Put(Vec<u8>),
    /// The key was removed.
    Delete,
}

/// Where an op was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Locality {
    /// By the engine in this process.
    Local,
    /// By the owner's server, over the network.
    Remote,
}

impl Locality {
    /// Both, in a fixed order.
    pub const ALL: [Self; 2] = [Self::Local, Self::Remote];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

/// The kind of an [`Op`], for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// [`Op::Get`].
    Get,
    /// [`Op::Put`].
    Put,
    /// [`Op::Delete`].
    Delete,
    /// [`Op::CompareAndSet`].
    CompareAndSet,
    /// [`Op::Scan`].
    Scan,
    /// [`Op::Feed`].
    Feed,
    /// [`Op::Head`].
    Head,
}

impl OpKind {
    /// All kinds, in a fixed order.
    pub const ALL: [Self; 7] = [
        Self::Get,
        Self::Put,
        Self::Delete,
        Self::CompareAndSet,
        Self::Scan,
        Self::Feed,
        Self::Head,
    ];

    /// Its name in metrics and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::CompareAndSet => "compare_and_set",
            Self::Scan => "scan",
            Self::Feed => "feed",
            Self::Head => "head",
        }
    }

    /// Whether it writes.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Delete | Self::CompareAndSet)
    }
}

impl Op {
    /// The slot that it concerns.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        match self {
            Self::Get { key }
            | Self::Put { key, .. }
            | Self::Delete { key }
            | Self::CompareAndSet { key, .. } => slot_of_key(key),
            Self::Scan { prefix, .. } => slot_of_key(prefix),
            Self::Feed { slot, .. } | Self::Head { slot } => *slot,
        }
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> OpKind {
        match self {
            Self::Get { .. } => OpKind::Get,
            Self::Put { .. } => OpKind::Put,
            Self::Delete { .. } => OpKind::Delete,
            Self::CompareAndSet { .. } => OpKind::CompareAndSet,
            Self::Scan { .. } => OpKind::Scan,
            Self::Feed { .. } => OpKind::Feed,
            Self::Head { .. } => OpKind::Head,
        }
    }

    /// Whether it touches keys of the platform's own: those that begin with `wp-`, or have a hash tag that does.
    #[must_use]
    pub fn is_of_platform(&self) -> bool {
        let key = match self {
            Self::Get { key }
            | Self::Put { key, .. }
            | Self::Delete { key }
            | Self::CompareAndSet { key, .. } => key,
            Self::Scan { prefix, .. } => prefix,
            Self::Feed { .. } | Self::Head { .. } => return false,
        };
        [Some(key.as_slice()), hash_tag(key)]
            .into_iter()
            .flatten()
            .any(|text| text.starts_with(PLATFORM))
    }

    /// Checks it against the [limits](crate::limits).
    ///
    /// # Errors
    /// [`DbError::KeyLength`], [`DbError::ValueLength`], [`DbError::Limit`], [`DbError::ScanWithoutTag`]
    /// or [`DbError::BadSlot`].
    pub fn check(&self) -> Result<(), DbError> {
        match self {
            Self::Get { key } | Self::Delete { key } => check_key(key),
            Self::Put { key, value } => check_key(key).and_then(|()| check_value(value)),
            Self::CompareAndSet {
                key,
                expected,
                value,
            } => {
                check_key(key)?;
                check_value(expected.as_deref().unwrap_or_default())?;
                check_value(value)
            }
            Self::Scan {
                prefix,
                after,
                limit,
            } => {
                check_key(prefix)?;
                check_key(after.as_deref().unwrap_or(prefix))?;
                check_limit(*limit)?;
                if has_hash_tag(prefix) {
                    Ok(())
                } else {
                    Err(DbError::ScanWithoutTag)
                }
            }
            Self::Feed { slot, limit, .. } => {
                check_slot(*slot)?;
                check_limit(*limit)
            }
            Self::Head { slot } => check_slot(*slot),
        }
    }
}

const fn check_key(key: &[u8]) -> Result<(), DbError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(DbError::KeyLength { given: key.len() });
    }
    Ok(())
}

const fn check_value(value: &[u8]) -> Result<(), DbError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(DbError::ValueLength { given: value.len() });
    }
    Ok(())
}

const fn check_slot(slot: SlotId) -> Result<(), DbError> {
    if slot.0 as u32 >= ebpf_common::limits::SLOTS {
        return Err(DbError::BadSlot { slot: slot.0 });
    }
    Ok(())
}

const fn check_limit(limit: u32) -> Result<(), DbError> {
    if limit == 0 || limit > ROWS_MAX {
        return Err(DbError::Limit { given: limit });
    }
    Ok(())
}

/// What keys and hash tags of the platform begin with.
const PLATFORM: &[u8] = b"wp-";

/// Whether `prefix` holds a whole, non-empty hash tag, so that every key that begins with it has its slot.
fn has_hash_tag(prefix: &[u8]) -> bool {
    hash_tag(prefix).is_some()
}

/// What stands in the first braces, unless it is nothing.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = key.get(open + 1..)?;
    let length = rest.iter().position(|byte| *byte == b'}')?;
    rest.get(..length).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(prefix: &str) -> Op {
        Op::Scan {
            prefix: prefix.into(),
            after: None,
            limit: 1,
        }
    }

    #[test]
    fn keys_and_values_beyond_their_limits_are_refused() {
        let put = |key: usize, value: usize| Op::Put {
            key: vec![b'k'; key],
            value: vec![0; value],
        };
        assert!(put(1, 0).check().is_ok());
        assert!(put(KEY_BYTES_MAX, VALUE_BYTES_MAX).check().is_ok());
        assert!(matches!(put(0, 0).check(), Err(DbError::KeyLength { .. })));
        assert!(matches!(
            put(KEY_BYTES_MAX + 1, 0).check(),
            Err(DbError::KeyLength { .. })
        ));
        assert!(matches!(
            put(1, VALUE_BYTES_MAX + 1).check(),
            Err(DbError::ValueLength { .. })
        ));
    }

    #[test]
    fn a_scan_needs_a_whole_hash_tag() {
        assert!(scan("{user42}").check().is_ok());
        assert!(scan("cart:{user42}:").check().is_ok());
        for bad in ["user", "{user42", "{}", "}a{"] {
            assert!(
                matches!(scan(bad).check(), Err(DbError::ScanWithoutTag)),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_platforms_keys_are_known_by_their_beginning_or_their_tags() {
        for of_platform in [
            "wp-trigger:{a}:f/t",
            "{wp-async-00}:p:1",
            "x{wp-async-3f}",
            "wp-",
        ] {
            assert!(scan(of_platform).is_of_platform(), "{of_platform}");
            let key = of_platform.into();
            assert!(Op::Delete { key }.is_of_platform(), "{of_platform}");
        }
        for of_others in ["{a}:wp-", "a{}wp-", "wp", "{awp-}", "{a}{wp-b}", "wp_{a}"] {
            let key = of_others.into();
            assert!(!Op::Get { key }.is_of_platform(), "{of_others}");
        }
    }

    #[test]
    fn a_limit_of_none_or_too_many_is_refused() {
        for limit in [0, ROWS_MAX + 1] {
            let feed = Op::Feed {
                slot: SlotId(0),
                cursor: Cursor::START,
                limit,
            };
            assert!(matches!(feed.check(), Err(DbError::Limit { .. })));
        }
    }

    proptest! {
        #[test]
        fn every_key_behind_a_tagged_prefix_has_the_prefixs_slot(
            prefix in "[a-z]{0,3}\\{[a-z]{1,4}\\}[a-z}]{0,3}",
            rest: Vec<u8>,
        ) {
            let key = [prefix.as_bytes(), &rest].concat();
            prop_assert!(has_hash_tag(prefix.as_bytes()));
            prop_assert_eq!(scan(&prefix).slot(), Op::Get { key }.slot());
        }
    }
}
