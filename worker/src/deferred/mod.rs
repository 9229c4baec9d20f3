//! Calls that nobody waits for: kept in the database before their caller is told, made by whoever owns their slot, at
//! least once, and their outcomes kept for a while.
//!
//! ```text
//! <tag>p:<id>  a call to be made: its record and its event      (<tag> is that of the id's shelf)
//! <tag>r:<id>  the outcome of one: its report and the reply, or the last error
//! <tag>d:<id>  one that was given up, as it was kept: the dead-letter list
//! <tag>s:<function>/<trigger>  a schedule, which is pulled by who owns the slot: `trigger`
//! ```
//! Invariants: a call is somewhere from the moment its caller is told until its outcome has been kept for its time; the
//! outcome is written before the call is removed, so that a crash between makes it twice and never loses it.

mod execute;
mod limits;
mod metrics;
mod record;
mod shelf;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use db::{DbError, Op, Reply, Router};
use ebpf_common::wire::Status;
use warmpath_sdk::{
    deferred::{Ask, CallId, DeadCalls, Deferred, Report, SHELVES, State, tag},
    http,
    trigger::TriggerAnswer,
};

pub(crate) use self::record::{Record, now_ms};
pub use self::{limits::DeferredLimits, metrics::DeferredMetrics};
use self::{limits::Retries, metrics::Book};
use crate::{
    bill::{Caller, Payers, Usage},
    catalog::Functions,
    pool::Outcome,
    trigger::Board,
};

/// Calls of one page of a list.
const PAGE: u32 = 100;

/// Keeps calls, and says what became of them.
#[derive(Debug)]
pub struct Shelves {
    db: Arc<Router>,
    /// How often each function wants to be tried.
    functions: Arc<Functions>,
    limits: DeferredLimits,
    metrics: DeferredMetrics,
    /// What lies here.
    book: Book,
    /// Those being made here.
    running: Mutex<HashSet<CallId>>,
    /// The triggers that are pulled here.
    board: Board,
    /// Who pays for the calls that are being made here.
    payers: Arc<Payers>,
}

/// What a key of a shelf is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Pending,
    Outcome,
    Dead,
}

impl Place {
    fn prefix(self, shelf: u8) -> String {
        let letter = match self {
            Self::Pending => 'p',
            Self::Outcome => 'r',
            Self::Dead => 'd',
        };
        format!("{}{letter}:", tag(shelf))
    }

    fn key(self, id: CallId) -> Vec<u8> {
        format!("{}{id}", self.prefix(id.shelf())).into_bytes()
    }
}

impl Shelves {
    /// Shelves in `db`, for calls of `functions`.
    #[must_use]
    pub fn new(
        db: Arc<Router>,
        functions: Arc<Functions>,
        limits: DeferredLimits,
        metrics: DeferredMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            db,
            functions,
            limits,
            metrics,
            book: Book::new(),
            running: Mutex::default(),
            board: Board::default(),
            payers: Arc::default(),
        })
    }

    /// Answers what the function [`warmpath_sdk::deferred::FUNCTION`] was asked. Who pays for a call with this event, `payer`
    /// says.
    pub async fn answer(
        &self,
        payload: &Bytes,
        payer: impl FnOnce(&Deferred, &Bytes) -> Caller,
    ) -> Outcome {
        let (ask, event) = match Ask::read(payload) {
            Ok(read) => read,
            Err(error) => return Outcome::failed(Status::BadPayload, error.to_string()),
        };
        let answered = match ask {
            Ask::Submit { id, call } => {
                let payer = payer(&call, &event).to_string();
                let record = Record::new(call, Some(payer));
                self.submit(id, record, &event).await
            }
            Ask::Outcome { id } => self.outcome(id).await,
            Ask::Dead { shelf } if shelf < SHELVES => self.dead(shelf).await,
            Ask::Dead { .. } => {
                return Outcome::failed(Status::BadPayload, "there is no such shelf");
            }
            Ask::Retry { id } => self.retry(id).await,
            Ask::Trigger {
                function, trigger, ..
            } => {
                let report = self.board.report(&function, &trigger);
                http::join(&TriggerAnswer { report }, b"").map_err(|error| unreadable(&error))
            }
        };
        match answered {
            Ok(message) => Outcome::replied(message, Usage::default()),
            // Each of them may be asked again, and changes nothing twice.
            Err(error) => Outcome::failed(Status::NoShardOwner, error.to_string()),
        }
    }

    async fn submit(&self, id: CallId, record: Record, event: &[u8]) -> Result<Bytes, DbError> {
        self.keep_call(id, &record, event).await?;
        report(id, State::Pending, Some(&record), None, b"")
    }

    /// Has a call made. One that is there already is this very call, asked for again; one that has ended meanwhile is not
    /// begun anew.
    pub(crate) async fn keep_call(
        &self,
        id: CallId,
        record: &Record,
        event: &[u8],
    ) -> Result<(), DbError> {
        if self.get(Place::Outcome.key(id)).await?.is_some() {
            return Ok(());
        }
        let keep = Op::CompareAndSet {
            key: Place::Pending.key(id),
            expected: None,
            value: record.join(event)?,
        };
        if let (Reply::Written { .. }, _) = self.db.execute(keep).await? {
            self.metrics.kept();
        }
        Ok(())
    }

    async fn outcome(&self, id: CallId) -> Result<Bytes, DbError> {
        if let Some(outcome) = self.get(Place::Outcome.key(id)).await? {
            return Ok(outcome.into());
        }
        let Some(kept) = self.get(Place::Pending.key(id)).await? else {
            // It may have ended between the two looks.
            return match self.get(Place::Outcome.key(id)).await? {
                Some(outcome) => Ok(outcome.into()),
                None => report(id, State::Unknown, None, None, b""),
            };
        };
        let (record, _) = Record::split(kept)?;
        let state = if self.lock_running().contains(&id) {
            State::Running
        } else {
            State::Pending
        };
        report(id, state, Some(&record), record.status.clone(), b"")
    }

    async fn dead(&self, shelf: u8) -> Result<Bytes, DbError> {
        let (rows, _) = self.page(Place::Dead, shelf, None).await?;
        let mut dead = DeadCalls::default();
        for (id, value) in rows {
            let (record, _) = Record::split(value)?;
            dead.calls.push(Report {
                id,
                state: State::Failed,
                function: record.call.function,
                attempts: record.attempts,
                status: record.status,
                http: false,
                at_ms: record.at_ms,
            });
        }
        http::join(&dead, b"").map_err(|error| unreadable(&error))
    }

    async fn retry(&self, id: CallId) -> Result<Bytes, DbError> {
        let Some(value) = self.get(Place::Dead.key(id)).await? else {
            return self.outcome(id).await;
        };
        let (record, event) = Record::split(value)?;
        let record = Record::new(record.call, record.caller);
        // In this order: a call to be made that has an outcome counts as made, and it is never nowhere.
        self.delete(Place::Outcome.key(id)).await?;
        let value = record.join(&event)?;
        self.put(Place::Pending.key(id), value).await?;
        self.delete(Place::Dead.key(id)).await?;
        self.book.revived(id.shelf());
        report(id, State::Pending, Some(&record), None, b"")
    }

    /// Keeps what became of a call, and removes it from those to be made.
    async fn conclude(
        &self,
        id: CallId,
        record: &Record,
        state: State,
        http: bool,
        body: &[u8],
    ) -> Result<(), DbError> {
        let outcome = Report {
            id,
            state,
            function: record.call.function.clone(),
            attempts: record.attempts,
            status: record.status.clone(),
            http,
            at_ms: now_ms(),
        };
        let outcome = http::join(&outcome, body).map_err(|error| unreadable(&error))?;
        self.put(Place::Outcome.key(id), outcome.to_vec()).await?;
        self.metrics.ended(state);
        self.delete(Place::Pending.key(id)).await
    }

    /// A page of a place: the calls behind `after`, and whether there are more.
    async fn page(
        &self,
        place: Place,
        shelf: u8,
        after: Option<CallId>,
    ) -> Result<(Vec<(CallId, Vec<u8>)>, bool), DbError> {
        let prefix = place.prefix(shelf);
        let scan = Op::Scan {
            prefix: prefix.clone().into_bytes(),
            after: after.map(|id| place.key(id)),
            limit: PAGE,
        };
        let (Reply::Rows { rows, more }, _) = self.db.execute(scan).await? else {
            return Err(unreadable(&"a scan was answered with something else"));
        };
        let id_of = |key: &[u8]| {
            let id = key.strip_prefix(prefix.as_bytes())?;
            std::str::from_utf8(id).ok()?.parse().ok()
        };
        let rows = rows.into_iter();
        let calls = rows.filter_map(|(key, value)| Some((id_of(&key)?, value)));
        Ok((calls.collect(), more))
    }

    /// The triggers that are pulled here.
    #[must_use]
    pub const fn board(&self) -> &Board {
        &self.board
    }

    /// Whom a call is made here for that carries `word`, if for anybody but ourselves.
    pub(crate) fn payer(&self, word: u64) -> Option<Caller> {
        self.payers.of(word)
    }

    /// Where the calls are kept.
    pub(crate) const fn db(&self) -> &Arc<Router> {
        &self.db
    }

    /// How often the calls of a function are tried: one that is gone has no wishes.
    fn retries(&self, function: &str) -> Retries {
        let entry = self.functions.named(function);
        let asked = entry
            .map(|entry| entry.manifest.retries)
            .unwrap_or_default();
        self.limits.of(&asked)
    }

    /// Brings the gauges up to date.
    pub(crate) fn show(&self) {
        let running = self.lock_running().len();
        self.metrics.show(&self.book, running);
    }

    /// Takes down that a call is being made, until what comes back is dropped.
    fn runs(self: &Arc<Self>, id: CallId) -> Running {
        self.lock_running().insert(id);
        Running {
            shelves: Arc::clone(self),
            id,
        }
    }

    pub(crate) async fn get(&self, key: Vec<u8>) -> Result<Option<Vec<u8>>, DbError> {
        match self.db.execute(Op::Get { key }).await? {
            (Reply::Value(value), _) => Ok(value),
            _ => Err(unreadable(&"a get was answered with something else")),
        }
    }

    pub(crate) async fn put(&self, key: Vec<u8>, value: Vec<u8>) -> Result<(), DbError> {
        self.db.execute(Op::Put { key, value }).await.map(drop)
    }

    pub(crate) async fn delete(&self, key: Vec<u8>) -> Result<(), DbError> {
        self.db.execute(Op::Delete { key }).await.map(drop)
    }

    fn lock_running(&self) -> std::sync::MutexGuard<'_, HashSet<CallId>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is being made.
struct Running {
    shelves: Arc<Shelves>,
    id: CallId,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shelves.lock_running().remove(&self.id);
    }
}

fn report(
    id: CallId,
    state: State,
    record: Option<&Record>,
    status: Option<String>,
    body: &[u8],
) -> Result<Bytes, DbError> {
    let report = Report {
        id,
        state,
        function: record.map_or_else(String::new, |record| record.call.function.clone()),
        attempts: record.map_or(0, |record| record.attempts),
        status,
        http: false,
        at_ms: record.map_or(0, |record| record.at_ms),
    };
    http::join(&report, body).map_err(|error| unreadable(&error))
}

/// What the database gave is not what was put there.
pub(crate) fn unreadable(error: &impl ToString) -> DbError {
    DbError::Read {
        reason: error.to_string(),
    }
}
