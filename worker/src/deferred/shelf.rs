//! Making the calls of a shelf: its owner looks it through again and again, and keeps as many calls going as may be. A call
//! that takes its time holds up no other.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use db::{Cursor, DbError, Op, Reply};
use ebpf_common::ids::SlotId;
use tokio::{
    select,
    task::JoinSet,
    time::{Instant, sleep},
};
use warmpath_sdk::{
    Client,
    deferred::{CallId, SHELVES, slot},
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

/// One shelf, as its owner works on it.
struct Shelf {
    shelves: Arc<Shelves>,
    shelf: u8,
    client: Client,
    making: JoinSet<Result<(), DbError>>,
    /// Read, and to be made once there is room.
    due: VecDeque<(CallId, Record, Bytes)>,
    pass: Pass,
    swept: Option<Instant>,
}

/// One look through all calls of the shelf, a page at a time.
struct Pass {
    /// Where the feed was before it: what comes during it moves it beyond.
    head: Cursor,
    /// The last call looked at.
    after: Option<CallId>,
    is_complete: bool,
    /// When the next call is due of those that are not yet.
    next_ms: u64,
    calls: usize,
    /// When the one that has waited longest was kept.
    oldest_ms: Option<u64>,
}

impl Pass {
    fn from(head: Cursor) -> Self {
        Self {
            head,
            after: None,
            is_complete: false,
            next_ms: u64::MAX,
            calls: 0,
            oldest_ms: None,
        }
    }
}

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
            let mut shelf = Shelf {
                shelves: Arc::clone(self),
                shelf,
                client: client.clone(),
                making: JoinSet::new(),
                due: VecDeque::new(),
                pass: Pass::from(Cursor::START),
                swept: None,
            };
            let load = Arc::clone(load);
            tasks.spawn(async move {
                while !load.is_draining() {
                    if let Err(error) = shelf.work().await {
                        tracing::warn!(shelf = shelf.shelf, %error, "calls that nobody waits for cannot be read or kept; trying again");
                        sleep(MEND).await;
                    }
                }
            });
        }
    }
}

impl Shelf {
    /// Looks through the shelf once, beginning what is due, and returns when there may be more.
    async fn work(&mut self) -> Result<(), DbError> {
        if self.swept.is_none_or(|at| at.elapsed() > SWEEP) {
            self.shelves.sweep(self.shelf).await?;
            self.swept = Some(Instant::now());
        }
        self.due.clear();
        self.pass = Pass::from(self.head().await?);
        while !self.pass.is_complete || !self.due.is_empty() {
            if self.making.len() >= self.shelves.limits.at_once {
                self.made().await?;
            } else if let Some((id, record, event)) = self.due.pop_front() {
                self.begin(id, record, event);
            } else {
                self.read().await?;
            }
        }
        let (calls, oldest_ms) = (self.pass.calls, self.pass.oldest_ms);
        self.shelves.book.pending(self.shelf, calls, oldest_ms);
        self.wait().await
    }

    /// Reads a page of calls, and picks those that are due.
    async fn read(&mut self) -> Result<(), DbError> {
        // Before the read: one that ends during it is read as it is then, or not at all.
        let running = self.shelves.lock_running().clone();
        let (rows, more) = self
            .shelves
            .page(Place::Pending, self.shelf, self.pass.after)
            .await?;
        self.pass.is_complete = !more;
        for (id, value) in rows {
            self.pass.after = Some(id);
            let (record, event) = Record::split(value)?;
            self.pass.calls += 1;
            let oldest_ms = self.pass.oldest_ms.unwrap_or(u64::MAX).min(record.at_ms);
            self.pass.oldest_ms = Some(oldest_ms);
            if running.contains(&id) {
                continue;
            }
            if record.next_ms <= now_ms() {
                self.due.push_back((id, record, event));
            } else {
                self.pass.next_ms = self.pass.next_ms.min(record.next_ms);
            }
        }
        Ok(())
    }

    fn begin(&mut self, id: CallId, record: Record, event: Bytes) {
        let (shelves, client) = (Arc::clone(&self.shelves), self.client.clone());
        let running = shelves.runs(id);
        self.making.spawn(async move {
            let made = shelves.make(id, record, event, &client).await;
            drop(running);
            made
        });
    }

    /// Waits for a call to end, if there is one.
    async fn made(&mut self) -> Result<(), DbError> {
        match self.making.join_next().await {
            Some(made) => made.unwrap_or(Err(DbError::Stopping)),
            None => std::future::pending().await,
        }
    }

    /// Waits for what may change the shelf.
    async fn wait(&mut self) -> Result<(), DbError> {
        let until_due = Duration::from_millis(self.pass.next_ms.saturating_sub(now_ms()));
        let db = Arc::clone(&self.shelves.db);
        let moved = db.feed_moved(slot(self.shelf), self.pass.head);
        select! {
            moved = moved => moved.map(drop),
            made = self.made() => made,
            () = sleep(until_due.min(SWEEP)) => Ok(()),
        }
    }

    async fn head(&self) -> Result<Cursor, DbError> {
        let head = Op::Head {
            slot: slot(self.shelf),
        };
        match self.shelves.db.execute(head).await? {
            (Reply::Feed { next, .. }, _) => Ok(next),
            _ => Ok(Cursor::START),
        }
    }
}
