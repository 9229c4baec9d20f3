//! Making the calls of a shelf: its owner follows its feed, and calls through its own RPC server as any client would.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use db::{Cursor, DbError, Op, Reply};
use ebpf_common::ids::SlotId;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use warmpath_sdk::{
    CallError, Client, Response,
    deferred::{CallId, Report, SHELVES, State, slot},
    http,
};

use super::{
    Place, Shelves,
    record::{Record, now_ms},
};
use crate::load::Load;

/// Wait after an error of the database.
const MEND: Duration = Duration::from_secs(1);
/// A shelf is looked through at least so often, and for what is too old.
const SWEEP: Duration = Duration::from_secs(300);

impl Shelves {
    /// Makes the calls of every shelf whose slot `is_ours`, through `client`, until `load` drains. The tasks end with
    /// `tasks`.
    pub fn serve(
        self: &Arc<Self>,
        is_ours: impl Fn(SlotId) -> bool,
        client: &Client,
        load: &Arc<Load>,
        tasks: &mut JoinSet<()>,
    ) {
        for shelf in (0..SHELVES).filter(|shelf| is_ours(slot(*shelf))) {
            let (shelves, client) = (Arc::clone(self), client.clone());
            let load = Arc::clone(load);
            tasks.spawn(async move {
                let mut swept = None;
                while !load.is_draining() {
                    if let Err(error) = shelves.look_through(shelf, &client, &mut swept).await {
                        tracing::warn!(shelf, %error, "calls that nobody waits for cannot be read or kept; trying again");
                        sleep(MEND).await;
                    }
                }
            });
        }
    }

    /// Makes every call that is due, and returns when there may be another one.
    async fn look_through(
        self: &Arc<Self>,
        shelf: u8,
        client: &Client,
        swept: &mut Option<Instant>,
    ) -> Result<(), DbError> {
        // Before the look: what comes during it moves the feed beyond.
        let head = self.head(shelf).await?;
        if swept.is_none_or(|at| at.elapsed() > SWEEP) {
            self.sweep(shelf).await?;
            *swept = Some(Instant::now());
        }
        let mut next_ms = now_ms() + u64::try_from(SWEEP.as_millis()).unwrap_or(u64::MAX / 2);
        let (mut after, mut made) = (None, false);
        loop {
            let (rows, more) = self.page(Place::Pending, shelf, after).await?;
            let mut due = Vec::new();
            for (id, value) in rows {
                after = Some(id);
                let (record, event) = Record::split(value)?;
                if record.next_ms <= now_ms() {
                    due.push((id, record, event));
                } else {
                    next_ms = next_ms.min(record.next_ms);
                }
            }
            made |= !due.is_empty();
            self.make_all(due, client).await?;
            if !more {
                break;
            }
        }
        if !made {
            let wait = Duration::from_millis(next_ms.saturating_sub(now_ms()));
            if let Ok(moved) = timeout(wait, self.db.feed_moved(slot(shelf), head)).await {
                moved?;
            }
        }
        Ok(())
    }

    async fn head(&self, shelf: u8) -> Result<Cursor, DbError> {
        let head = Op::Head { slot: slot(shelf) };
        match self.db.execute(head).await? {
            (Reply::Feed { next, .. }, _) => Ok(next),
            _ => Ok(Cursor::START),
        }
    }

    /// Makes these calls, so many at a time as may be.
    async fn make_all(
        self: &Arc<Self>,
        due: Vec<(CallId, Record, Bytes)>,
        client: &Client,
    ) -> Result<(), DbError> {
        let mut making = JoinSet::new();
        for (id, record, event) in due {
            if making.len() >= self.limits.at_once
                && let Some(made) = making.join_next().await
            {
                made.unwrap_or(Err(DbError::Stopping))?;
            }
            let (shelves, client) = (Arc::clone(self), client.clone());
            making.spawn(async move { shelves.make(id, record, event, &client).await });
        }
        while let Some(made) = making.join_next().await {
            made.unwrap_or(Err(DbError::Stopping))?;
        }
        Ok(())
    }

    /// Makes one attempt, and writes down what came of it.
    async fn make(
        &self,
        id: CallId,
        mut record: Record,
        event: Bytes,
        client: &Client,
    ) -> Result<(), DbError> {
        if self.get(Place::Outcome.key(id)).await?.is_some() {
            // A crash came between the outcome and this.
            return self.delete(Place::Pending.key(id)).await;
        }
        self.lock_running().insert(id);
        let called = client.call(record.attempt(&event)).await;
        let kept = self.keep(id, &mut record, &event, called).await;
        self.lock_running().remove(&id);
        kept
    }

    async fn keep(
        &self,
        id: CallId,
        record: &mut Record,
        event: &[u8],
        called: Result<Response, CallError>,
    ) -> Result<(), DbError> {
        let error = match called {
            Ok(Response { payload, http, .. }) => {
                record.status = Some("ok".to_owned());
                return self.conclude(id, record, State::Done, http, &payload).await;
            }
            Err(error) => error,
        };
        if record.failed(&error, &self.limits) {
            return self.put(Place::Pending.key(id), record.join(event)?).await;
        }
        self.give_up(id, record, event, &error).await
    }

    /// Puts a call on the dead-letter list; its outcome is `error`.
    pub(crate) async fn give_up(
        &self,
        id: CallId,
        record: &mut Record,
        event: &[u8],
        error: &CallError,
    ) -> Result<(), DbError> {
        record.at_ms = now_ms();
        self.put(Place::Dead.key(id), record.join(event)?).await?;
        let message = error.to_string();
        self.conclude(id, record, State::Failed, false, message.as_bytes())
            .await
    }

    /// Forgets what has been kept long enough.
    async fn sweep(&self, shelf: u8) -> Result<(), DbError> {
        for place in [Place::Outcome, Place::Dead] {
            let mut after = None;
            loop {
                let (rows, more) = self.page(place, shelf, after).await?;
                for (id, value) in rows {
                    after = Some(id);
                    let at_ms = match place {
                        Place::Dead => Record::split(value)?.0.at_ms,
                        _ => kept_at(&value),
                    };
                    if self.is_old(at_ms) {
                        self.delete(place.key(id)).await?;
                    }
                }
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// When an outcome was written down; one that cannot be read is as old as can be.
fn kept_at(value: &[u8]) -> u64 {
    http::split::<Report>(&Bytes::copy_from_slice(value)).map_or(0, |(report, _)| report.at_ms)
}
