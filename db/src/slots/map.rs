//! The slot map: which shard owns which slots, as the control plane last said.

use ebpf_common::ids::SlotId;
use serde::{Deserialize, Serialize};

use super::SlotRange;

/// Which shard owns which slots. A slot that no range names has no live owner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotMap {
    /// Grows with every change; a reader ignores a map that is not newer than the one it has.
    pub version: u64,
    /// In any order, free of overlaps.
    pub owners: Vec<SlotOwner>,
}

/// The owner of one range of slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotOwner {
    /// The slots.
    pub range: SlotRange,
    /// Who owns them: the worker's name.
    pub shard: String,
    /// Its db server, such as `http://10.80.0.11:7200`.
    pub url: String,
}

/// Why a slot map is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("slot map {version} gives {range} of `{shard}` to two owners")]
pub struct MapError {
    /// The map's version.
    pub version: u64,
    /// The range that overlaps another.
    pub range: SlotRange,
    /// Who the map says owns it.
    pub shard: String,
}

impl SlotMap {
    /// The owner of `slot`, if it has one.
    #[must_use]
    pub fn owner_of(&self, slot: SlotId) -> Option<&SlotOwner> {
        self.owners.iter().find(|owner| owner.range.contains(slot))
    }

    /// Replaces `self` by `newer` and says whether it did: a map that is not newer changes nothing.
    ///
    /// # Errors
    /// [`MapError`] when two ranges of `newer` overlap; `self` stays.
    pub fn advance(&mut self, newer: Self) -> Result<bool, MapError> {
        if newer.version <= self.version && self.version != 0 {
            return Ok(false);
        }
        for (index, owner) in newer.owners.iter().enumerate() {
            let rest = newer.owners.iter().skip(index + 1);
            if rest.clone().any(|other| owner.range.overlaps(&other.range)) {
                return Err(MapError {
                    version: newer.version,
                    range: owner.range,
                    shard: owner.shard.clone(),
                });
            }
        }
        *self = newer;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(version: u64, ranges: &[(&str, &str)]) -> SlotMap {
        SlotMap {
            version,
            owners: ranges
                .iter()
                .map(|(range, shard)| SlotOwner {
                    range: range.parse().unwrap(),
                    shard: (*shard).to_owned(),
                    url: format!("http://{shard}:7200"),
                })
                .collect(),
        }
    }

    #[test]
    fn a_slot_map_never_goes_backwards() {
        let mut current = SlotMap::default();
        assert_eq!(current.advance(map(3, &[("0-9", "a")])), Ok(true));
        assert_eq!(current.advance(map(2, &[("0-9", "b")])), Ok(false));
        assert_eq!(current.advance(map(3, &[("0-9", "c")])), Ok(false));
        assert_eq!(current.owner_of(SlotId(9)).unwrap().shard, "a");
        assert_eq!(current.advance(map(4, &[])), Ok(true));
        assert_eq!(current.owner_of(SlotId(9)), None);
    }

    #[test]
    fn a_map_with_two_owners_of_a_slot_is_refused() {
        let mut current = map(1, &[("0-9", "a")]);
        let error = current
            .advance(map(2, &[("0-5", "a"), ("5-9", "b")]))
            .unwrap_err();
        assert_eq!(error.range.to_string(), "0-5");
        assert_eq!(current.version, 1);
    }
}
