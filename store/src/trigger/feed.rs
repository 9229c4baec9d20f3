//! Keys whose writes call a function.

use ebpf_common::{hash::slot_of_key, ids::SlotId};
use serde::{Deserialize, Serialize};

use super::TriggerError;

/// Longest prefix: a fourth of a key.
pub(super) const PREFIX_BYTES_MAX: usize = 256;
/// What the platform's own keys and hash tags begin with.
const RESERVED: &str = "wp-";
/// Most writes of one call.
const BATCH_MAX: u32 = 100;
/// Most calls a second.
const PER_SECOND_MAX: u32 = 10_000;
/// The tenant that has what says nothing of a tenant.
const DEFAULT_TENANT: &str = "default";

/// One of `[[triggers.feed]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedTrigger {
    /// Its name, among those of the function.
    pub name: String,
    /// What the keys begin with; holds a hash tag.
    pub prefix: String,
    /// Most writes that one call is told of.
    #[serde(default = "one")]
    pub batch: u32,
    /// Most calls a second: also what bounds a function that writes keys that call it.
    #[serde(default = "default_per_second")]
    pub per_second: u32,
    /// Where to begin when it is new.
    #[serde(default)]
    pub begin: Begin,
}

/// Where a new feed trigger begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Begin {
    /// With what is written from now on.
    #[default]
    Now,
    /// With the first write of the slot.
    Beginning,
}

const fn one() -> u32 {
    1
}

const fn default_per_second() -> u32 {
    100
}

impl FeedTrigger {
    pub(super) fn check(&self, tenant: &str) -> Result<(), TriggerError> {
        let name = || self.name.clone();
        let tag = tag_of(&self.prefix).filter(|_| self.prefix.len() <= PREFIX_BYTES_MAX);
        let Some(tag) = tag else {
            return Err(TriggerError::Prefix { name: name() });
        };
        if [tag, &self.prefix]
            .iter()
            .any(|text| text.starts_with(RESERVED))
        {
            return Err(TriggerError::Reserved { name: name() });
        }
        let owner = tag
            .split_once('/')
            .map_or(DEFAULT_TENANT, |(owner, _)| owner);
        if owner != tenant {
            return Err(TriggerError::Foreign {
                name: name(),
                tag: tag.to_owned(),
                owner: owner.to_owned(),
                tenant: tenant.to_owned(),
            });
        }
        for (key, given, max) in [
            ("batch", self.batch, BATCH_MAX),
            ("per_second", self.per_second, PER_SECOND_MAX),
        ] {
            if !(1..=max).contains(&given) {
                return Err(TriggerError::OutOfRange {
                    name: name(),
                    key,
                    given,
                    max,
                });
            }
        }
        Ok(())
    }

    /// The slot whose writes it follows.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        slot_of_prefix(&self.prefix)
    }

    /// Its hash tag, with the braces; empty if it has none, which [`crate::Manifest::check`] refuses.
    #[must_use]
    pub fn tag(&self) -> String {
        tag_of(&self.prefix).map_or_else(String::new, |tag| format!("{{{tag}}}"))
    }
}

/// The slot of all keys that begin with `prefix`, which has a hash tag.
#[must_use]
pub fn slot_of_prefix(prefix: &str) -> SlotId {
    slot_of_key(prefix.as_bytes())
}

/// What stands in the first braces, as Redis Cluster has it; `None` without any, or with nothing in them.
fn tag_of(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}
