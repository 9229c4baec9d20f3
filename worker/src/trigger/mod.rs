//! Triggers: functions that are called by the time, or by writes to the database.
//!
//! Who pulls a trigger is the worker that owns its slot: of a schedule the slot that its calls are kept in, of a feed the
//! slot that it follows. What must survive is one record in that slot, so that who has the slot has all it needs.
//!
//! # Layout
//! - `wanted` reads the catalog: which triggers are to be pulled here, and what for; `puller` starts and ends one task for
//!   each, as that changes.
//! - `schedule` and `feed` are those tasks; `batch` cuts a feed into calls, `event` is what the function is told.
//! - `state` is what survives; `board` what can be asked.
//!
//! # Invariants
//! - A tick of a schedule has one id, and so one record: kept again, it is the same call. The record is kept before the
//!   tick counts as pulled.
//! - A feed's cursor moves past a write once its call has succeeded, or is on the dead-letter list: a crash before that
//!   makes the call again. There is one call of a trigger at a time, so that writes keep their order.
//! - A trigger that is taken away, or changes, ends between two calls, and its successor begins after that.
//!
//! Deliberately absent: agreement between workers. A slot has one owner by configuration.

mod batch;
mod board;
mod event;
mod feed;
mod metrics;
mod puller;
mod schedule;
mod state;
mod wanted;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use warmpath_sdk::Client;

pub use self::{board::Board, metrics::TriggerMetrics, puller::serve};
use crate::{catalog::Functions, deferred::Shelves, load::Load};

/// Wait after an error of the database.
const MEND: Duration = Duration::from_secs(1);

/// What pulling takes.
#[derive(Debug)]
pub struct Site {
    /// Keeps the calls, and has the database.
    pub shelves: Arc<Shelves>,
    /// Which triggers there are.
    pub functions: Arc<Functions>,
    /// Calls what feeds trigger, as any client would.
    pub client: Client,
    /// Nothing is pulled any more once it drains.
    pub load: Arc<Load>,
    /// What to count.
    pub metrics: TriggerMetrics,
}

impl Site {
    /// Waits a while; `false` when the trigger ended meanwhile.
    async fn pause(&self, wait: Duration, ended: &CancellationToken) -> bool {
        let slept = ended.run_until_cancelled(tokio::time::sleep(wait)).await;
        slept.is_some() && !self.load.is_draining()
    }
}
