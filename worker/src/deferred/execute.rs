//! One call: an attempt, and what came of it.

use bytes::Bytes;
use db::DbError;
use warmpath_sdk::{
    CallError, Client, Response,
    deferred::{CallId, Report, State},
    http,
};

use super::{
    Place, Shelves,
    metrics::Attempt,
    record::{Record, now_ms},
};
use crate::bill::{Caller, Loan};

impl Shelves {
    /// Makes one attempt, and writes down what came of it.
    pub(super) async fn make(
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
        let called = self.attempt(&record, &event, client).await;
        self.keep(id, &mut record, &event, called).await
    }

    /// Makes one attempt at a call, on the bill of whoever had it made.
    pub(crate) async fn attempt(
        &self,
        record: &Record,
        event: &Bytes,
        client: &Client,
    ) -> Result<Response, CallError> {
        let caller = record.caller.as_deref().map(Caller::of);
        let loan = caller.map(|caller| self.payers.lend(caller));
        let mut call = record.attempt(event);
        call.trace_id = loan.as_ref().map_or(0, Loan::word);
        client.call(call).await
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
                self.succeeded();
                record.status = Some("ok".to_owned());
                return self.conclude(id, record, State::Done, http, &payload).await;
            }
            Err(error) => error,
        };
        if self.failed(record, &error) {
            return self.put(Place::Pending.key(id), record.join(event)?).await;
        }
        self.give_up(id, record, event, &error).await
    }

    /// Takes down that an attempt succeeded.
    pub(crate) fn succeeded(&self) {
        self.metrics.attempted(Attempt::Done);
    }

    /// Takes down that an attempt failed. Says whether another one is to be made, from the record's `next_ms` on.
    pub(crate) fn failed(&self, record: &mut Record, error: &CallError) -> bool {
        let retries = self.retries(&record.call.function);
        let attempts = record.attempts;
        let goes_on = record.failed(error, &retries);
        let is_functions = record.attempts > attempts;
        self.metrics.attempted(match is_functions {
            true => Attempt::Function,
            false => Attempt::Platform,
        });
        goes_on
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
        self.book.died(id.shelf());
        let message = error.to_string();
        self.conclude(id, record, State::Failed, false, message.as_bytes())
            .await
    }

    /// Forgets what has been kept long enough.
    pub(super) async fn sweep(&self, shelf: u8) -> Result<(), DbError> {
        let mut dead = 0;
        for place in [Place::Outcome, Place::Dead] {
            let mut after = None;
            loop {
                let (rows, more) = self.page(place, shelf, after).await?;
                for (id, value) in rows {
                    after = Some(id);
                    let (function, at_ms) = match place {
                        Place::Dead => Record::split(value)
                            .map(|(dead, _)| (dead.call.function, dead.at_ms))?,
                        _ => kept_at(value),
                    };
                    let keep_ms = self.retries(&function).keep_ms;
                    if now_ms().saturating_sub(at_ms) > keep_ms {
                        self.delete(place.key(id)).await?;
                    } else {
                        dead += usize::from(place == Place::Dead);
                    }
                }
                if !more {
                    break;
                }
            }
        }
        self.book.dead(shelf, dead);
        Ok(())
    }
}

/// Whose outcome it is, and when it was written down; one that cannot be read is as old as can be.
fn kept_at(value: Vec<u8>) -> (String, u64) {
    let read = http::split::<Report>(&value.into());
    read.map_or_else(
        |_| (String::new(), 0),
        |(report, _)| (report.function, report.at_ms),
    )
}
