//! What calls a function by itself: times, and writes to the database.
//!
//! Which of a function's versions is asked for its triggers is decided here ([`firing`]), once for the workers that pull
//! them and for whoever asks about them. Who pulls them, and how, is the workers' affair.

mod feed;
mod schedule;
#[cfg(test)]
mod tests;

use std::{borrow::Borrow, collections::BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::{
    feed::{Begin, FeedTrigger, slot_of_prefix},
    schedule::{Schedule, ScheduleError, ScheduleTrigger, utc},
};
use crate::{
    api::types::{CatalogEntry, LATEST},
    manifest::{NAME_LEN_MAX, check_name},
};

/// Most triggers of one function.
pub const TRIGGERS_MAX: usize = 16;

/// `[triggers]` of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Triggers {
    /// The alias whose version has its triggers pulled, and is called by them. That of the latest version counts.
    #[serde(default = "latest")]
    pub alias: String,
    /// Times at which the function is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<ScheduleTrigger>,
    /// Keys whose writes call it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feed: Vec<FeedTrigger>,
}

fn latest() -> String {
    LATEST.to_owned()
}

impl Default for Triggers {
    fn default() -> Self {
        Self {
            alias: latest(),
            schedule: Vec::new(),
            feed: Vec::new(),
        }
    }
}

/// Why triggers are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    /// More than a function may have.
    #[error("`triggers` has {given} of them, more than the {TRIGGERS_MAX} allowed")]
    TooMany {
        /// How many.
        given: usize,
    },
    /// A name that is none.
    #[error(
        "`triggers`: `{given}` is no name of a trigger or alias: 1 to 63 of a-z, 0-9 and `-`, beginning with a letter or digit"
    )]
    Name {
        /// The refused name.
        given: String,
    },
    /// Two of one name: what is known of a trigger is kept under its name.
    #[error("`triggers` has two called `{name}`")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// Times that cannot be.
    #[error("`triggers.schedule` `{name}`: {source}")]
    Schedule {
        /// The trigger.
        name: String,
        /// What is wrong.
        source: ScheduleError,
    },
    /// A prefix that is in no slot, or too long.
    #[error(
        "`triggers.feed` `{name}`: `prefix` must be 3 to {} bytes and hold a whole hash tag, as `{{orders}}:` does: that keeps its \
         keys in one slot, whose writes have an order",
        feed::PREFIX_BYTES_MAX
    )]
    Prefix {
        /// The trigger.
        name: String,
    },
    /// The platform's own keys.
    #[error(
        "`triggers.feed` `{name}`: keys and hash tags that begin with `wp-` are the platform's own: choose another prefix"
    )]
    Reserved {
        /// The trigger.
        name: String,
    },
    /// Another tenant's keys.
    #[error(
        "`triggers.feed` `{name}`: keys with the tag `{{{tag}}}` are of tenant `{owner}`, and this function is of `{tenant}`: \
         a tag `{{tenant/…}}` is that tenant's, one without a slash is of tenant `default`"
    )]
    Foreign {
        /// The trigger.
        name: String,
        /// The hash tag.
        tag: String,
        /// Whose it is.
        owner: String,
        /// Whose function it is.
        tenant: String,
    },
    /// A number outside its range.
    #[error("`triggers.feed` `{name}`: `{key} = {given}` is outside the allowed range 1 to {max}")]
    OutOfRange {
        /// The trigger.
        name: String,
        /// The key.
        key: &'static str,
        /// Its value.
        given: u32,
        /// Largest value allowed.
        max: u32,
    },
}

impl Triggers {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.schedule.len() + self.feed.len()
    }

    /// Whether nothing would ever call the function by itself.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks them, for a function of `tenant`.
    ///
    /// # Errors
    /// [`TriggerError`] for the first that breaks a rule.
    pub fn check(&self, tenant: &str) -> Result<(), TriggerError> {
        if self.len() > TRIGGERS_MAX {
            return Err(TriggerError::TooMany { given: self.len() });
        }
        check_given(&self.alias)?;
        let schedules = self.schedule.iter().map(|trigger| &trigger.name);
        let feeds = self.feed.iter().map(|trigger| &trigger.name);
        let mut names = BTreeSet::new();
        for name in schedules.chain(feeds) {
            check_given(name)?;
            if !names.insert(name) {
                return Err(TriggerError::Duplicate { name: name.clone() });
            }
        }
        for trigger in &self.schedule {
            trigger
                .schedule()
                .map_err(|source| TriggerError::Schedule {
                    name: trigger.name.clone(),
                    source,
                })?;
        }
        self.feed
            .iter()
            .try_for_each(|trigger| trigger.check(tenant))
    }
}

fn check_given(name: &str) -> Result<(), TriggerError> {
    match check_name(name) {
        Ok(()) => Ok(()),
        Err(_) => Err(TriggerError::Name {
            given: name.chars().take(NAME_LEN_MAX + 1).collect(),
        }),
    }
}

/// The version of a function whose triggers are pulled, and which they call: that of the alias that the latest version
/// names, among the entries of a catalog as `entry` finds them by their qualified names.
pub fn firing<E: Borrow<CatalogEntry>>(
    function: &str,
    entry: impl Fn(&str) -> Option<E>,
) -> Option<E> {
    let latest = entry(&format!("{function}@{LATEST}"))?;
    let alias = &latest.borrow().manifest.triggers.alias;
    if alias == LATEST {
        return Some(latest);
    }
    entry(&format!("{function}@{alias}"))
}
