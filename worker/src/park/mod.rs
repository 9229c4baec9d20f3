//! The car park of requests: a handler that waits for something holds no instance, no place and no task meanwhile.
//!
//! `table` says who waits for what; one follower for each feed (here) and one keeper of time wake them. What is woken
//! goes into a channel, in the order of waking; whoever reads it runs the handlers again.
//!
//! Invariants: a feed has one follower, however many wait for it; local feeds are told by the commit, remote ones by a
//! long poll at their owner; a follower that meets an error tries again, for who waits has a time to wake at anyway.

mod limits;
mod report;
mod table;
mod wait;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use db::{Cursor, DbError, Op, Reply};
use ebpf_common::ids::SlotId;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    limits::ParkLimits,
    report::{ParkedReport, ParkedRequest},
    table::{ParkTable, Placed, Ticket, Until},
    wait::{Wait, Wake, WakeReason},
};

/// How long a feed is followed after nobody waits for it any more.
const LINGER: Duration = Duration::from_secs(30);
/// Waits after the first and the following errors of a follower.
const BACKOFF: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(2);
/// Taken out under one hold of the lock, so that a crowd that is due keeps nobody from parking.
const DUE_AT_ONCE: usize = 256;

/// Something that was parked and is to go on.
#[derive(Debug)]
pub struct Woken<T> {
    /// What was parked.
    pub item: T,
    /// Why it goes on.
    pub reason: WakeReason,
    /// Where the feed is; after a time, where it was when the item was parked.
    pub head: Cursor,
}

/// Everything parked of kind `T`, and what wakes it.
#[derive(Debug)]
pub struct Parking<T> {
    table: Mutex<ParkTable<T>>,
    feeds: Arc<db::Router>,
    woken: mpsc::UnboundedSender<Woken<T>>,
    /// Told when somebody is due earlier than everybody before.
    earlier: Arc<Notify>,
    /// Ends the tasks.
    ended: CancellationToken,
}

impl<T> Drop for Parking<T> {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl<T: Send + 'static> Parking<T> {
    /// An empty car park; what it wakes arrives at the receiver. Needs a runtime, for its keeper of time.
    #[must_use]
    pub fn new(
        limits: &ParkLimits,
        feeds: Arc<db::Router>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Woken<T>>) {
        let (woken, receiver) = mpsc::unbounded_channel();
        let parking = Arc::new(Self {
            table: Mutex::new(ParkTable::new(limits.requests, limits.bytes)),
            feeds,
            woken,
            earlier: Arc::default(),
            ended: CancellationToken::new(),
        });
        parking.spawn(keep_time(
            Arc::downgrade(&parking),
            Arc::clone(&parking.earlier),
        ));
        (parking, receiver)
    }

    /// Parks `item`, which holds `bytes`. If the feed is beyond the cursor already, it is woken at once, and there is
    /// no ticket.
    ///
    /// # Errors
    /// There is no room: `item` comes back.
    pub fn park(
        self: &Arc<Self>,
        until: Until,
        bytes: usize,
        item: T,
    ) -> Result<Option<Ticket>, T> {
        let (placed, is_next) = {
            let mut table = self.table();
            let placed = table.park(until, bytes, item);
            (placed, table.next_due() == Some(until.time))
        };
        match placed {
            Placed::Full(item) => Err(item),
            Placed::Moved { item, head } => {
                self.wake(item, WakeReason::Feed, head);
                Ok(None)
            }
            Placed::Waits { ticket, follow } => {
                if is_next {
                    self.earlier.notify_one();
                }
                if let Some(slot) = follow {
                    let feeds = Arc::clone(&self.feeds);
                    self.spawn(follow_feed(Arc::downgrade(self), feeds, slot));
                }
                Ok(Some(ticket))
            }
        }
    }

    /// Takes back what is parked under `ticket`; `None` when it has been woken.
    pub fn take(&self, ticket: Ticket) -> Option<T> {
        self.table().take(ticket)
    }

    /// Takes back everything.
    pub fn take_all(&self) -> Vec<T> {
        self.table().take_all()
    }

    /// How many are parked, and what they hold.
    pub fn size(&self) -> (usize, usize) {
        let table = self.table();
        (table.len(), table.bytes())
    }

    /// Shows `show` everything parked, under the lock.
    pub fn look<R>(&self, show: impl FnOnce(&ParkTable<T>) -> R) -> R {
        show(&self.table())
    }

    /// Runs `task` for as long as the car park lives, at most.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        tokio::spawn(async move {
            // Nobody asks which of the two it was.
            ended.run_until_cancelled(task).await;
        });
    }

    fn wake(&self, item: T, reason: WakeReason, head: Cursor) {
        // Without a reader nobody serves any more.
        drop(self.woken.send(Woken { item, reason, head }));
    }

    /// The feed of `slot` is at `head`.
    fn moved(&self, slot: SlotId, head: Cursor) {
        let woken = self.table().moved(slot, head);
        for item in woken {
            self.wake(item, WakeReason::Feed, head);
        }
    }

    fn wake_due(&self, now: Instant) -> Option<Instant> {
        loop {
            let (due, next) = {
                let mut table = self.table();
                (table.due(now, DUE_AT_ONCE), table.next_due())
            };
            if due.is_empty() {
                return next;
            }
            for (cursor, item) in due {
                self.wake(item, WakeReason::Time, cursor);
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, ParkTable<T>> {
        // The table is whole between any two statements that could panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes whoever's time is up, for as long as the car park lives.
async fn keep_time<T: Send + 'static>(parking: Weak<Parking<T>>, earlier: Arc<Notify>) {
    loop {
        let next = match parking.upgrade() {
            Some(parking) => parking.wake_due(Instant::now()),
            None => return,
        };
        match next {
            Some(next) => tokio::select! {
                () = sleep_until(next) => (),
                () = earlier.notified() => (),
            },
            None => earlier.notified().await,
        }
    }
}

/// Follows the feed of `slot` until nobody waits for it.
async fn follow_feed<T: Send + 'static>(
    parking: Weak<Parking<T>>,
    feeds: Arc<db::Router>,
    slot: SlotId,
) {
    let mut known = None;
    let mut backoff = *BACKOFF.start();
    loop {
        let moved = timeout(LINGER, next_head(&feeds, slot, known)).await;
        let Some(parking) = parking.upgrade() else {
            return;
        };
        match moved {
            Ok(Ok(head)) => {
                known = Some(head);
                backoff = *BACKOFF.start();
                parking.moved(slot, head);
            }
            Ok(Err(error)) => {
                tracing::debug!(slot = slot.0, %error, "a feed that is waited for cannot be followed; trying again");
                sleep(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                backoff = (backoff * 2).min(*BACKOFF.end());
            }
            Err(_elapsed) => (),
        }
        if !parking.table().is_awaited(slot) {
            return;
        }
    }
}

/// Where the feed is, once it is not where it was known to be.
async fn next_head(
    feeds: &db::Router,
    slot: SlotId,
    known: Option<Cursor>,
) -> Result<Cursor, DbError> {
    match known {
        Some(known) => feeds.feed_moved(slot, known).await,
        None => match feeds.execute(Op::Head { slot }).await? {
            (Reply::Feed { next, .. }, _) => Ok(next),
            _ => Err(DbError::Malformed {
                reason: "the head of a feed was answered with something else".to_owned(),
            }),
        },
    }
}
