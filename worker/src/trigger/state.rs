//! What survives of a trigger: one record in its slot.

use db::DbError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use warmpath_sdk::deferred::CallId;

use super::{Site, wanted::Wanted};
use crate::deferred::unreadable;

/// Of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ScheduleState {
    /// The version that last pulled it.
    pub(super) version: u32,
    /// The expression and zone that it was for.
    pub(super) cron: String,
    pub(super) timezone: Option<String>,
    /// Up to here, in milliseconds since 1970, all is done: the last tick, or the moment it was new.
    pub(super) through_ms: u64,
    pub(super) fired: u64,
    pub(super) missed: u64,
    pub(super) last_call: Option<CallId>,
}

/// Of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FeedState {
    /// The version that last pulled it.
    pub(super) version: u32,
    /// Up to here all is done.
    pub(super) cursor: u64,
    pub(super) fired: u64,
    pub(super) failures: u64,
    pub(super) dead: u64,
    pub(super) last_ms: Option<u64>,
    pub(super) last_call: Option<CallId>,
}

/// What both have.
pub(super) trait State: Serialize + DeserializeOwned {
    fn version(&self) -> u32;
}

impl State for ScheduleState {
    fn version(&self) -> u32 {
        self.version
    }
}

impl State for FeedState {
    fn version(&self) -> u32 {
        self.version
    }
}

impl Site {
    /// What survived of a trigger; nothing of one whose function has been removed since, also if there is one of that name
    /// again: numbers of versions are not used twice.
    pub(super) async fn state<S: State>(&self, wanted: &Wanted) -> Result<Option<S>, DbError> {
        let Some(value) = self.shelves.get(wanted.state_key()).await? else {
            return Ok(None);
        };
        let state: S = serde_json::from_slice(&value).map_err(|error| unreadable(&error))?;
        let version = format!("{}@{}", wanted.function, state.version());
        let is_of_this_one = self.functions.named(&version).is_some();
        Ok(is_of_this_one.then_some(state))
    }

    pub(super) async fn keep_state(
        &self,
        wanted: &Wanted,
        state: &impl State,
    ) -> Result<(), DbError> {
        let value = serde_json::to_vec(state).map_err(|error| unreadable(&error))?;
        self.shelves.put(wanted.state_key(), value).await
    }
}
