//! A range of slots as the protocol writes it. Stands in until `db` exports its own.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Slots `first` to `last`, both included; written `0-5460`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SlotRange {
    /// The first slot.
    pub first: u16,
    /// The last slot.
    pub last: u16,
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl From<SlotRange> for String {
    fn from(range: SlotRange) -> Self {
        range.to_string()
    }
}

impl FromStr for SlotRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a range of slots such as 0-5460");
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        let first = first.parse().map_err(|_not_a_number| bad())?;
        let last = last.parse().map_err(|_not_a_number| bad())?;
        if first > last || u32::from(last) >= ebpf_common::limits::SLOTS {
            return Err(bad());
        }
        Ok(Self { first, last })
    }
}

impl TryFrom<String> for SlotRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
