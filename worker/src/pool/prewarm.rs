//! Warmth that an operator asks for: code and layers fetched, and instances started, before anyone calls.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use store::CatalogEntry;
use tokio::time::{Instant, sleep};

use super::{
    Pool,
    function::{FunctionPool, Warmth},
};
use crate::code::CodeError;

/// As long as the starts may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Whoever starts instances tells the requests that wait for them, and nobody waits for these.
const LOOK: Duration = Duration::from_millis(2);

/// What is to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrewarmRequest {
    /// A name, which means its latest version, or a qualified name.
    pub function: String,
    /// Instances; with none, only code and layers are fetched.
    pub count: u32,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrewarmReport {
    /// The worker.
    pub worker: String,
    /// The function's qualified name.
    pub function: String,
    /// Its version.
    pub version: u32,
    /// Instances that live.
    pub live: usize,
    /// Those of them, at most, that were started for this.
    pub started: usize,
}

/// Why nothing was made warm. What it says is for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum PrewarmError {
    /// The store has none of this name.
    #[error("there is no function {function}: `warmpath fn list` shows those there are")]
    Unknown {
        /// What was asked for.
        function: String,
    },
    /// Its code cannot be had.
    #[error("the code of {function} cannot be made ready")]
    Code {
        /// What was asked for.
        function: String,
        /// The cause.
        #[source]
        source: Box<CodeError>,
    },
}

impl Pool {
    /// How many instances of what `entry` names live: idle, paused and busy.
    #[must_use]
    pub fn live(&self, entry: &Arc<CatalogEntry>) -> usize {
        self.functions.of(entry).standing().demand.live
    }

    /// Fetches the code and layers of `entry`, and starts nothing.
    ///
    /// # Errors
    /// [`CodeError`]; nothing broken is left behind.
    pub async fn fetch(&self, entry: &CatalogEntry) -> Result<(), CodeError> {
        self.code.ensure(entry).await?;
        self.counters.code_ahead.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Fetches the code and layers of `entry` and has instances started until `count` of them live. Fewer may: for want
    /// of memory, by its `max_instances`, or because starting them fails. They stay as any that idle do.
    ///
    /// # Errors
    /// [`PrewarmError::Code`].
    pub async fn prewarm(
        &self,
        entry: &Arc<CatalogEntry>,
        count: u32,
    ) -> Result<PrewarmReport, PrewarmError> {
        let fetched = self.code.ensure(entry).await;
        fetched.map_err(|source| PrewarmError::Code {
            function: entry.qualified.clone(),
            source: Box::new(source),
        })?;
        let function = self.functions.of(entry);
        let count = count as usize;
        let before = self.live(entry);
        while function.lacks(count) {
            self.start_instance(&function, Some(Warmth::Promised));
        }
        let live = settled(&function, count).await;
        let started = live.saturating_sub(before);
        let prewarmed = &self.counters.prewarmed;
        prewarmed.fetch_add(started as u64, Ordering::Relaxed);
        Ok(PrewarmReport {
            worker: self.config.worker.clone(),
            function: entry.qualified.clone(),
            version: entry.version,
            live,
            started,
        })
    }
}

/// How many live once that is `count`, or none is being started any more.
async fn settled(function: &FunctionPool, count: usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let demand = function.standing().demand;
        if demand.live >= count || demand.starting == 0 || Instant::now() > deadline {
            return demand.live;
        }
        sleep(LOOK).await;
    }
}
