//! Pulling a feed: its writes, in their order, one call after the other.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use db::{Cursor, DbError, FeedRecord, Op, Reply};
use store::trigger::{Begin, FeedTrigger};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use warmpath_sdk::trigger::{TriggerKind, TriggerReport};

use super::{
    MEND, Site,
    batch::{self, Batch},
    event,
    metrics::Pulled,
    state::FeedState,
    wanted::Wanted,
};
use crate::deferred::{Record, now_ms, unreadable};

/// Records looked at in one read.
const PAGE: u32 = 256;
/// So many records of other keys are passed over before the cursor is kept again: what is kept is itself a record of the
/// feed.
const UNKEPT_MAX: u64 = 1_000;

/// One trigger at work.
struct Follower<'a> {
    site: &'a Site,
    wanted: &'a Wanted,
    trigger: &'a FeedTrigger,
    ended: &'a CancellationToken,
    /// As it is kept.
    state: FeedState,
    /// Up to here records have been dealt with, or passed over.
    cursor: Cursor,
    /// No call before.
    free_at: Instant,
}

/// Pulls `trigger` until it `ended`.
pub(super) async fn pull(
    site: &Arc<Site>,
    wanted: &Wanted,
    trigger: &FeedTrigger,
    ended: &CancellationToken,
) {
    let mut follower = None;
    while !ended.is_cancelled() && !site.load.is_draining() {
        let stepped = match &mut follower {
            Some(follower) => Follower::step(follower).await,
            None => match begin(site, wanted, trigger).await {
                Ok(state) => {
                    follower = Some(Follower {
                        site,
                        wanted,
                        trigger,
                        ended,
                        cursor: Cursor(state.cursor),
                        state,
                        free_at: Instant::now(),
                    });
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = stepped {
            tracing::warn!(function = wanted.function, trigger = wanted.trigger, %error, "a feed that calls a function cannot be followed; trying again");
            let report = follower
                .as_ref()
                .map_or_else(|| wanted.report(), Follower::report);
            let error = Some(error.to_string());
            site.shelves
                .board()
                .show(&TriggerReport { error, ..report });
            site.pause(MEND, ended).await;
        }
    }
}

/// What survived, or the beginning.
async fn begin(site: &Site, wanted: &Wanted, trigger: &FeedTrigger) -> Result<FeedState, DbError> {
    let head = head(site, trigger).await?;
    let survived: Option<FeedState> = site.state(wanted).await?;
    let state = match survived {
        Some(state) if state.version == wanted.version && state.cursor <= head.0 => {
            return Ok(state);
        }
        Some(state) => FeedState {
            version: wanted.version,
            // A database that was put back to an earlier time has not got as far.
            cursor: state.cursor.min(head.0),
            ..state
        },
        None => FeedState {
            version: wanted.version,
            cursor: match trigger.begin {
                Begin::Now => head.0,
                Begin::Beginning => Cursor::START.0,
            },
            fired: 0,
            failures: 0,
            dead: 0,
            last_ms: None,
            last_call: None,
        },
    };
    site.keep_state(wanted, &state).await?;
    Ok(state)
}

async fn head(site: &Site, trigger: &FeedTrigger) -> Result<Cursor, DbError> {
    let head = Op::Head {
        slot: trigger.slot(),
    };
    match site.shelves.db().execute(head).await? {
        (Reply::Feed { next, .. }, _) => Ok(next),
        _ => Err(unreadable(
            &"the head of a feed was answered with something else",
        )),
    }
}

impl Follower<'_> {
    /// Deals with a page of records, or waits for one.
    async fn step(&mut self) -> Result<(), DbError> {
        let records = self.read().await?;
        let head = head(self.site, self.trigger).await?;
        self.show(head, None);
        if records.is_empty() {
            let moved = self
                .site
                .shelves
                .db()
                .feed_moved(self.trigger.slot(), self.cursor);
            // `None`: it ended.
            return self
                .ended
                .run_until_cancelled(moved)
                .await
                .map_or(Ok(()), |moved| moved.map(drop));
        }
        let mut rest = records.as_slice();
        while let Some(last) = rest.last() {
            let (batch, looked_at) =
                batch::next(rest, self.trigger.prefix.as_bytes(), self.trigger.batch);
            let Some(batch) = batch else {
                return self.pass_over(last.cursor).await;
            };
            if !self.deliver(&batch, head).await? {
                return Ok(());
            }
            rest = rest.get(looked_at..).unwrap_or_default();
        }
        Ok(())
    }

    async fn read(&self) -> Result<Vec<FeedRecord>, DbError> {
        let feed = Op::Feed {
            slot: self.trigger.slot(),
            cursor: self.cursor,
            limit: PAGE,
        };
        match self.site.shelves.db().execute(feed).await? {
            (Reply::Feed { records, .. }, _) => Ok(records),
            _ => Err(unreadable(&"a feed was answered with something else")),
        }
    }

    async fn pass_over(&mut self, cursor: Cursor) -> Result<(), DbError> {
        self.cursor = cursor;
        if cursor.0 - self.state.cursor < UNKEPT_MAX {
            return Ok(());
        }
        self.state.cursor = cursor.0;
        self.site.keep_state(self.wanted, &self.state).await
    }

    /// Calls the function with a batch until that succeeds or is given up; `false` when the trigger ended before.
    async fn deliver(&mut self, batch: &Batch, head: Cursor) -> Result<bool, DbError> {
        let id = self.wanted.call_id(batch.first.0);
        let event = Bytes::from(event::writes(self.wanted, id, &batch.records));
        let call = self.wanted.call(Some(self.trigger.slot()));
        let mut record = Record::new(call, Some(self.wanted.payer()));
        let outcome = loop {
            if !self.take_turn().await {
                return Ok(false);
            }
            // Not cut short by the end of the trigger: a handler that has begun is let finish.
            let shelves = &self.site.shelves;
            let called = shelves.attempt(&record, &event, &self.site.client).await;
            let Err(error) = called else {
                shelves.succeeded();
                break Pulled::Done;
            };
            self.count(Pulled::Failed);
            self.state.failures += 1;
            if !self.site.shelves.failed(&mut record, &error) {
                let given_up = self.site.shelves.give_up(id, &mut record, &event, &error);
                given_up.await?;
                self.state.dead += 1;
                break Pulled::Dead;
            }
            self.show(head, Some((record.next_ms, error.to_string())));
            let wait = record.next_ms.saturating_sub(now_ms());
            if !self
                .site
                .pause(Duration::from_millis(wait), self.ended)
                .await
            {
                return Ok(false);
            }
        };
        self.count(outcome);
        self.state.fired += u64::from(outcome == Pulled::Done);
        self.state.last_ms = Some(now_ms());
        self.state.last_call = Some(id);
        self.state.cursor = batch.through.0;
        self.cursor = batch.through;
        self.show(head, None);
        self.site.keep_state(self.wanted, &self.state).await?;
        Ok(true)
    }

    /// Waits until `per_second` allows another call; `false` when the trigger ended meanwhile.
    async fn take_turn(&mut self) -> bool {
        let now = Instant::now();
        if self.free_at > now {
            self.site.metrics.held_back();
            let waited = self
                .ended
                .run_until_cancelled(sleep_until(self.free_at))
                .await;
            if waited.is_none() {
                return false;
            }
        }
        let gap = Duration::from_secs(1) / self.trigger.per_second.max(1);
        self.free_at = self.free_at.max(now) + gap;
        !self.ended.is_cancelled() && !self.site.load.is_draining()
    }

    fn count(&self, outcome: Pulled) {
        self.site.metrics.pulled(TriggerKind::Feed, outcome);
    }

    fn report(&self) -> TriggerReport {
        TriggerReport {
            fired: self.state.fired,
            last_ms: self.state.last_ms,
            last_call: self.state.last_call,
            cursor: Some(self.cursor.0),
            failures: self.state.failures,
            dead: self.state.dead,
            ..self.wanted.report()
        }
    }

    /// Shows how it is doing; of a call that failed, when it is made again.
    fn show(&self, head: Cursor, failed: Option<(u64, String)>) {
        let (next_ms, error) = failed.unzip();
        self.site.shelves.board().show(&TriggerReport {
            lag: head.0.saturating_sub(self.cursor.0),
            next_ms,
            error,
            ..self.report()
        });
    }
}
