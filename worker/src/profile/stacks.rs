//! Samples by stack, and how a runtime hands them over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::runtime::protocol::FrameError;

/// What stacks without room of their own are counted as.
pub const OTHER: &str = "(other)";
/// Stacks with a count of their own.
const STACKS_MAX: usize = 8_192;
/// Bytes of all of them.
const BYTES_MAX: usize = 4 << 20;
/// Stacks in one frame of a runtime.
const IN_FRAME_MAX: usize = 512;
/// Frames of one stack.
const DEPTH_MAX: usize = 64;

/// Samples by stack, bounded: what finds no room is added to [`OTHER`], so that the sum stays true.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, u64>", into = "BTreeMap<String, u64>")]
pub struct Stacks {
    counts: BTreeMap<String, u64>,
    /// Of all stacks together.
    bytes: usize,
}

impl From<BTreeMap<String, u64>> for Stacks {
    fn from(counts: BTreeMap<String, u64>) -> Self {
        let bytes = counts.keys().map(String::len).sum();
        Self { counts, bytes }
    }
}

impl From<Stacks> for BTreeMap<String, u64> {
    fn from(stacks: Stacks) -> Self {
        stacks.counts
    }
}

impl Stacks {
    /// Counts `samples` more of `stack`.
    pub fn add(&mut self, stack: &str, samples: u64) {
        let (count, bytes) = (self.counts.len(), self.bytes + stack.len());
        let has_room = count < STACKS_MAX && bytes <= BYTES_MAX;
        let stack = if has_room || self.counts.contains_key(stack) {
            stack
        } else {
            OTHER
        };
        if let Some(count) = self.counts.get_mut(stack) {
            *count = count.saturating_add(samples);
        } else {
            self.bytes += stack.len();
            self.counts.insert(stack.to_owned(), samples);
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (stack, samples) in other.iter() {
            self.add(stack, samples);
        }
    }

    /// All samples.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.counts
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Each stack and its samples, in the order of the stacks.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts
            .iter()
            .map(|(stack, samples)| (stack.as_str(), *samples))
    }

    /// Reads what a runtime sent: a JSON list of stacks, each with its samples.
    ///
    /// # Errors
    /// [`FrameError::Profile`] when it is anything else, or too much.
    pub fn parse(data: &[u8]) -> Result<Self, FrameError> {
        let list: Vec<(String, u32)> = serde_json::from_slice(data).or(Err(FrameError::Profile))?;
        if list.len() > IN_FRAME_MAX {
            return Err(FrameError::Profile);
        }
        let mut stacks = Self::default();
        for (stack, samples) in list {
            if stack.is_empty() || stack.split(';').count() > DEPTH_MAX {
                return Err(FrameError::Profile);
            }
            // Names are the handler's: on a terminal they are to be letters and nothing else.
            stacks.add(&stack.replace(char::is_control, "\u{fffd}"), samples.into());
        }
        Ok(stacks)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_a_runtime_sends_and_nothing_else() {
        let stacks = Stacks::parse(br#"[["f (f.py:1);g (f.py:3)",7],["f (f.py:1)",1]]"#).unwrap();
        let all: Vec<_> = stacks.iter().collect();
        assert_eq!(all, [("f (f.py:1)", 1), ("f (f.py:1);g (f.py:3)", 7)]);
        assert_eq!(stacks.samples(), 8);
        let deep = format!("[[{:?},1]]", vec!["a"; DEPTH_MAX + 1].join(";"));
        let many = format!("[{}]", vec![r#"["a",1]"#; IN_FRAME_MAX + 1].join(","));
        for bad in [
            "",
            "{}",
            "[1]",
            r#"[["a"]]"#,
            r#"[["",1]]"#,
            r#"[["a",-1]]"#,
            r#"[["a",4294967296]]"#,
            deep.as_str(),
            many.as_str(),
        ] {
            assert_eq!(
                Stacks::parse(bad.as_bytes()),
                Err(FrameError::Profile),
                "{bad}"
            );
        }
        let escape = Stacks::parse(br#"[["\u001b[31mred\n",1]]"#).unwrap();
        assert_eq!(
            escape.iter().next(),
            Some(("\u{fffd}[31mred\u{fffd}", 1)),
            "no escape sequence reaches a terminal"
        );
    }

    #[test]
    fn what_finds_no_room_is_counted_all_the_same() {
        let mut stacks = Stacks::default();
        for number in 0..STACKS_MAX + 100 {
            stacks.add(&number.to_string(), 1);
        }
        assert_eq!(stacks.counts.len(), STACKS_MAX + 1);
        assert_eq!(stacks.counts[OTHER], 100);
        let mut long = Stacks::default();
        for number in 0..100_u8 {
            long.add(&char::from(number).to_string().repeat(BYTES_MAX / 64), 1);
        }
        assert_eq!((long.counts.len(), long.counts[OTHER]), (65, 36));
    }

    proptest! {
        /// In whatever order and from however many workers: no sample is lost or counted twice.
        #[test]
        fn sums_are_the_same_in_any_order(
            parts in proptest::collection::vec(
                proptest::collection::vec(("[a-c](;[a-c]){0,3}", 0..1_000_u64), 0..20), 0..5),
        ) {
            let (mut forth, mut back, mut expected) = (Stacks::default(), Stacks::default(), 0);
            let parts: Vec<Stacks> = parts.iter().map(|part| {
                let mut stacks = Stacks::default();
                for (stack, samples) in part {
                    stacks.add(stack, *samples);
                    expected += samples;
                }
                stacks
            }).collect();
            parts.iter().for_each(|part| forth.merge(part));
            parts.iter().rev().for_each(|part| back.merge(part));
            prop_assert_eq!(forth.samples(), expected);
            prop_assert_eq!(forth, back);
        }

        #[test]
        fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Stacks::parse(&bytes));
        }
    }
}
