//! Which slots: ranges, sets of them, and the map from slot to owner.

mod map;

use std::{fmt, str::FromStr};

use ebpf_common::{ids::SlotId, limits::SLOTS};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use map::{MapError, SlotMap, SlotOwner};

/// The last slot.
const LAST: u16 = (SLOTS - 1) as u16;

/// The slots from `first` to `last`, both included. As text, and in serde: `0-5460`, or `7` for one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    /// The first slot.
    pub first: u16,
    /// The last slot; not below `first`, and below 16,384.
    pub last: u16,
}

/// Why a text is no slot range, or ranges are no set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not `first-last`.
    #[error("`{given}` is no slot range: expected `first-last` within 0-16383, such as `0-5460`")]
    Text {
        /// The refused text.
        given: String,
    },
    /// Two ranges share a slot.
    #[error("the slot ranges {one} and {other} overlap")]
    Overlap {
        /// One of them.
        one: SlotRange,
        /// The other.
        other: SlotRange,
    },
}

impl SlotRange {
    /// All slots.
    pub const ALL: Self = Self {
        first: 0,
        last: LAST,
    };

    /// Whether `slot` is in it.
    #[must_use]
    pub const fn contains(&self, slot: SlotId) -> bool {
        self.first <= slot.0 && slot.0 <= self.last
    }

    /// Whether it shares a slot with `other`.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// How many slots it has.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    const fn is_valid(&self) -> bool {
        self.first <= self.last && self.last <= LAST
    }
}

impl FromStr for SlotRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |part: &str| {
            let is_plain = part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| is_plain)
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) => Some(Self { first, last }),
            _ => None,
        }
        .filter(Self::is_valid)
        .ok_or_else(|| RangeError::Text {
            given: text.chars().take(40).collect(),
        })
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Serialize for SlotRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// Slots as ranges, sorted and free of overlaps. In serde: a list of ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct SlotSet(Vec<SlotRange>);

impl SlotSet {
    /// The set of `ranges`, in any order.
    ///
    /// # Errors
    /// [`RangeError::Overlap`], or [`RangeError::Text`] for a range that was not made by parsing and is none.
    pub fn new(mut ranges: Vec<SlotRange>) -> Result<Self, RangeError> {
        if let Some(bad) = ranges.iter().find(|range| !range.is_valid()) {
            return Err(RangeError::Text {
                given: bad.to_string(),
            });
        }
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if let [one, other] = pair
                && one.overlaps(other)
            {
                return Err(RangeError::Overlap {
                    one: *one,
                    other: *other,
                });
            }
        }
        Ok(Self(ranges))
    }

    /// Whether `slot` is in it.
    #[must_use]
    pub fn contains(&self, slot: SlotId) -> bool {
        let behind = self.0.partition_point(|range| range.first <= slot.0);
        behind > 0
            && self
                .0
                .get(behind - 1)
                .is_some_and(|range| range.contains(slot))
    }

    /// The ranges, sorted.
    #[must_use]
    pub fn ranges(&self) -> &[SlotRange] {
        &self.0
    }

    /// Whether it holds no slot.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for SlotSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_survives_its_text(a in 0u16..=LAST, b in 0u16..=LAST) {
            let range = SlotRange { first: a.min(b), last: a.max(b) };
            prop_assert_eq!(range.to_string().parse(), Ok(range));
            let json = serde_json::to_string(&range).unwrap();
            prop_assert_eq!(serde_json::from_str::<SlotRange>(&json).unwrap(), range);
        }

        #[test]
        fn a_set_holds_exactly_the_slots_of_its_ranges(
            cuts in proptest::collection::btree_set(0u16..=LAST, 2..20),
            slot in 0u16..=LAST,
        ) {
            let cuts: Vec<u16> = cuts.into_iter().collect();
            let ranges: Vec<SlotRange> = cuts
                .chunks_exact(2)
                .map(|pair| SlotRange { first: pair[0], last: pair[1] })
                .collect();
            let holds = ranges.iter().any(|range| range.contains(SlotId(slot)));
            let set = SlotSet::new(ranges.into_iter().rev().collect()).unwrap();
            prop_assert_eq!(set.contains(SlotId(slot)), holds);
        }
    }

    #[test]
    fn text_that_is_no_range_is_refused() {
        for bad in [
            "", "-", "1-", "-1", "5-4", "0-16384", "+1-2", "0x1", "1-2-3", " 1",
        ] {
            assert!(bad.parse::<SlotRange>().is_err(), "{bad}");
        }
        assert_eq!("7".parse(), Ok(SlotRange { first: 7, last: 7 }));
    }

    #[test]
    fn ranges_that_overlap_are_no_set() {
        let error = serde_json::from_str::<SlotSet>("[\"0-5\", \"5-9\"]").unwrap_err();
        assert!(error.to_string().contains("0-5 and 5-9"), "{error}");
        assert!(serde_json::from_str::<SlotSet>("[\"6-9\", \"0-5\"]").is_ok());
    }
}
