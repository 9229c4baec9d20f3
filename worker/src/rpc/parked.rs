//! Requests whose handlers wait: out of their task into the car park, and back into a task when they are woken.

use std::{
    sync::{Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use ebpf_common::wire::{Status, flags};
use tokio::{sync::mpsc::UnboundedReceiver, time};
use warmpath_sdk::fragment::Held;

use super::{Server, answer::Reply, serve::Job, table::Run};
use crate::{
    invoke::Invoker,
    park::{ParkedReport, ParkedRequest, Until, Wait, Wake, Woken},
    pool::Outcome,
};

/// What a parked request holds beside its event and state: the job, its entries in three maps and in the table of
/// requests, rounded up.
const PARKED_BYTES: usize = 640;
/// Questions after parked requests that a worker wants in a millisecond.
const QUESTIONS_PER_MS: usize = 5;
/// Clients of parked requests ask at most so often.
const ASK_AFTER_MS_MIN: usize = 1_000;
/// Events and states are kept in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;
/// Parked requests shown one by one.
const SHOWN_MAX: usize = 100;
/// Requests answered in one turn when all are sent away.
const DISMISS_BURST: usize = 64;

/// Where events and states of parked requests lie: one behind the other in large pieces. Each on its own, they would lie
/// between the futures of the tasks that they came from, and hold the allocator's holes of that size open for hours:
/// measured, three times the memory.
#[derive(Debug, Default)]
pub(super) struct Larder(Mutex<BytesMut>);

impl Larder {
    /// A copy of `bytes`. The piece that it lies in lives as long as anything in it.
    fn keep(&self, bytes: &[u8]) -> Bytes {
        if bytes.len() > PIECE_BYTES / 16 {
            return Bytes::copy_from_slice(bytes);
        }
        let mut piece = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if piece.capacity() - piece.len() < bytes.len() {
            *piece = BytesMut::with_capacity(PIECE_BYTES);
        }
        piece.extend_from_slice(bytes);
        piece.split().freeze()
    }
}

impl<I: Invoker> Server<I> {
    /// Parks a request until what it waits for happens, and tells its client. It holds no place and no task then.
    ///
    /// # Errors
    /// There is no room: the request comes back, with what to answer.
    pub(super) fn park(&self, mut job: Job, wait: Wait) -> Result<(), Box<(Job, Outcome)>> {
        let now = time::Instant::now();
        let time = now + self.parts.park.until(wait.until_ms);
        let until = Until {
            feed: wait.feed,
            time: job.deadline.map_or(time, |deadline| deadline.min(time)),
        };
        let state_len = wait.state.as_ref().map_or(0, |state| state.len());
        let bytes = PARKED_BYTES + job.payload.len() + state_len;
        job.wake = None;
        job.payload = self.larder.keep(&job.payload);
        job.state = (wait.state).map(|state| self.larder.keep(state.as_bytes()));
        let (key, header, way, cookie) = (job.key, job.header, job.way.clone(), job.cookie);
        match self.parking.park(until, bytes, job) {
            Ok(ticket) => {
                if let Some(ticket) = ticket {
                    self.table.now_is(key, Run::Parked(ticket));
                }
                let held = Held::all(header.fragment_count);
                self.tell_progress(&way, &header, held, cookie, true);
                Ok(())
            }
            Err(job) => {
                let message =
                    "the handler waits, and this worker has no room for one more parked request";
                let outcome = Outcome::failed(Status::Overloaded, message);
                Err(Box::new((job, outcome)))
            }
        }
    }

    /// Runs what is woken, each as soon as there is a place for it.
    pub(super) async fn resume(server: Weak<Self>, mut woken: UnboundedReceiver<Woken<Job>>) {
        while let Some(Woken { item, reason, head }) = woken.recv().await {
            let Some(server) = server.upgrade() else {
                return;
            };
            let mut job = item;
            server.parts.metrics.woken(reason);
            server.table.now_is(job.key, Run::Starting);
            job.arrived = time::Instant::now();
            job.wake = Some(Wake {
                reason,
                cursor: head,
                state: job
                    .state
                    .take()
                    .map(|state| String::from_utf8_lossy(&state).into()),
            });
            let permit = server.parts.load.place().await;
            server.spawn(job, permit);
        }
    }

    /// Answers everything parked, because this worker stops: another one may begin anew what may run twice.
    pub async fn dismiss_parked(&self) {
        for (index, job) in self.parking.take_all().into_iter().enumerate() {
            let (status, why) = if job.header.has(flags::IDEMPOTENT) {
                (Status::Draining, "the worker that parked the request stops")
            } else {
                let why =
                    "the handler ran until it waited, and the worker that parked the request stops";
                (Status::OutcomeUnknown, why)
            };
            let reply = Reply::new(
                &job.header,
                status,
                Bytes::from_static(why.as_bytes()),
                job.cookie,
            );
            self.table.forget(job.key);
            self.parts.metrics.refused(status);
            self.answer_now(&job.way, &reply);
            if index % DISMISS_BURST == DISMISS_BURST - 1 {
                time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// What is parked.
    #[must_use]
    pub fn parked_report(&self) -> ParkedReport {
        let now = time::Instant::now();
        self.parking.look(|table| {
            let mut report = ParkedReport {
                parked: table.len(),
                bytes: table.bytes(),
                ..ParkedReport::default()
            };
            for (until, job) in table.iter() {
                let function = job.function.as_ref();
                let function = function.map_or_else(String::new, |entry| entry.qualified.clone());
                if report.soonest.len() < SHOWN_MAX {
                    let left = until.time.saturating_duration_since(now);
                    report.soonest.push(ParkedRequest {
                        request_id: job.key.id,
                        function: function.clone(),
                        slot: until.feed.map(|(slot, _)| slot.0),
                        cursor: until.feed.map(|(_, cursor)| cursor.0),
                        left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                    });
                }
                *report.by_function.entry(function).or_default() += 1;
            }
            report
        })
    }

    /// When the client of a parked request should ask after it: the more are parked the later, but while the reply to
    /// one that has been woken is still kept.
    pub(super) fn ask_after_ms(&self) -> u32 {
        let (parked, _) = self.parking.size();
        let most = usize::try_from(self.limits.reply_cache_ms / 2).unwrap_or(usize::MAX);
        let wait = (parked / QUESTIONS_PER_MS).max(ASK_AFTER_MS_MIN).min(most);
        u32::try_from(wait).unwrap_or(u32::MAX)
    }
}
