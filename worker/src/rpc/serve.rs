//! One request's life, from its last fragment to its reply.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ebpf_common::{
    limits::MAX_MESSAGE,
    wire::{RpcHeader, Status, flags},
};
use store::CatalogEntry;
use tokio::{pin, select, time};
use warmpath_sdk::{
    deferred::{Deferred, FUNCTION_ID},
    fragment::Held,
};

use super::{
    Server,
    answer::{Reply, has_run},
    http,
    intake::{UNKNOWN_FUNCTION, Way},
    socket::send,
    table::{RequestKey, Table},
};
use crate::{
    bill::{BillConfig, Caller},
    invoke::Invoker,
    load::Permit,
    park::Wake,
    pool::{Invocation, Outcome},
};

/// A request that has arrived whole.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) way: Way,
    pub(super) key: RequestKey,
    pub(super) header: RpcHeader,
    pub(super) payload: Bytes,
    pub(super) cookie: u64,
    /// When the last of it came, or what it waited for.
    pub(super) arrived: time::Instant,
    /// When the caller stops waiting, if he said so.
    pub(super) deadline: Option<time::Instant>,
    /// The function, once its handler has run: another version does not go on with what that began.
    pub(super) function: Option<Arc<CatalogEntry>>,
    /// What woke it, if it was parked.
    pub(super) wake: Option<Wake>,
    /// While it is parked: what its handler left for itself.
    pub(super) state: Option<Bytes>,
}

impl Job {
    /// A request that has just arrived.
    pub(super) fn new(
        way: Way,
        key: RequestKey,
        header: RpcHeader,
        payload: Bytes,
        cookie: u64,
    ) -> Self {
        let arrived = time::Instant::now();
        let budget = Duration::from_millis(header.budget_ms.into());
        Self {
            way,
            key,
            header,
            payload,
            cookie,
            arrived,
            deadline: (!budget.is_zero()).then(|| arrived + budget),
            function: None,
            wake: None,
            state: None,
        }
    }
}

impl<I: Invoker> Server<I> {
    /// Runs a request in a task of its own, which can be ended by its table entry.
    pub(super) fn spawn(self: &Arc<Self>, job: Job, permit: Permit) {
        let key = job.key;
        let task = tokio::spawn(Arc::clone(self).serve(job, permit));
        self.table.runs_in(key, task.abort_handle());
    }

    /// Runs a request and answers it, or parks it.
    async fn serve(self: Arc<Self>, mut job: Job, permit: Permit) {
        let begun = Instant::now();
        let mut entry = RunningEntry {
            table: &self.table,
            key: job.key,
            is_kept: false,
        };
        let mut outcome = self.outcome(&mut job).await;
        if let Some(stream) = outcome.stream.take() {
            let (reply, outcome) = self.stream(&job, stream).await;
            entry.is_kept = true;
            self.keep_stream(&job, &reply);
            return self.served(&outcome, begun.elapsed());
        }
        let took = begun.elapsed();
        let is_http = http::put(&job.header, &mut outcome);
        let outcome = match outcome.wait.take() {
            Some(wait) => {
                self.parts.load.took(took);
                entry.is_kept = true;
                match self.park(job, *wait) {
                    Ok(()) => return,
                    Err(refused) => (job, outcome) = *refused,
                }
                entry.is_kept = false;
                beyond_repeating(&job.header, outcome)
            }
            None if job.wake.is_some() => beyond_repeating(&job.header, bounded(outcome)),
            None => bounded(outcome),
        };
        self.served(&outcome, took);
        let Outcome {
            status, payload, ..
        } = outcome;
        let is_http = is_http && status != Status::BadReply;
        let reply = Reply::new(&job.header, status, payload, job.cookie).with_http(is_http);
        let reply = Arc::new(match status {
            Status::Overloaded => reply.with_retry_after(self.parts.load.retry_after_ms()),
            _ => reply,
        });
        // Also a refusal: a client that has not heard it asks, and must not be told that nothing is known of the request.
        entry.is_kept = true;
        self.table.finish(job.key, &reply, Instant::now());
        drop(entry);
        // The place is free before the caller can know: a caller with one request at a time never
        // finds his own last one in its way.
        drop(permit);
        send(&job.way.socket, job.way.peer, &reply, Held::NONE).await;
    }

    fn served(&self, outcome: &Outcome, took: Duration) {
        let cold = outcome.usage.cold;
        self.parts.metrics.served(outcome.status, took, cold);
        self.parts.load.took(took);
    }

    async fn outcome(&self, job: &mut Job) -> Outcome {
        if job.header.function == *FUNCTION_ID
            && let Some(shelves) = self.shelves.get()
        {
            let payer = |call: &Deferred, event: &Bytes| {
                let named = call.http.then(|| http::caller_in(event)).flatten();
                self.payer(job, named.as_deref())
            };
            return shelves.answer(&job.payload, payer).await;
        }
        let invocation = match self.invocation(job).await {
            Ok(invocation) => invocation,
            Err(outcome) => return outcome,
        };
        // It may wait until its deadline, and the handler start just then.
        let last_start = invocation.wait_deadline().at;
        let give_up = invocation.deadline_from(last_start).at + self.limits.grace();
        let running = self.parts.invoker.invoke(invocation);
        pin!(running);
        select! {
            biased;
            outcome = &mut running => return outcome,
            () = time::sleep(self.limits.acknowledge_after()) => (),
        }
        self.parts.metrics.acknowledged();
        let held = Held::all(job.header.fragment_count);
        let progress = Reply::progress(&job.header, held, job.cookie);
        send(&job.way.socket, job.way.peer, &progress, Held::NONE).await;
        time::timeout_at(give_up, running)
            .await
            .unwrap_or_else(|_elapsed| {
                tracing::error!(
                    request = job.key.id,
                    "the pool kept a request far beyond its deadline"
                );
                Outcome::failed(
                    Status::OutcomeUnknown,
                    "the worker lost track of the request; it may have run",
                )
            })
    }

    async fn invocation(&self, job: &mut Job) -> Result<Invocation, Outcome> {
        let header = &job.header;
        let known = job.function.take();
        let function = match known.or_else(|| self.parts.functions.get(header.function)) {
            Some(function) => Some(function),
            None => self.parts.functions.get_or_learn(header.function).await,
        };
        let Some(function) = function else {
            return Err(Outcome::failed(Status::UnknownFunction, UNKNOWN_FUNCTION));
        };
        let taken = http::take(header, &job.payload, &function.manifest);
        let http::Taken {
            head,
            payload,
            caller,
        } = taken.map_err(|refused| *refused)?;
        let caller = self.payer(job, caller.as_deref());
        let streams = self.streams_of(job).map_err(|refused| *refused)?;
        job.function = Some(Arc::clone(&function));
        Ok(Invocation {
            function,
            request_id: header.request_id,
            session: header.has(flags::HAS_SESSION).then_some(header.session_id),
            payload,
            http: head,
            arrived: job.arrived,
            caller_deadline: job.deadline,
            wake: job.wake.clone(),
            caller,
            streams,
        })
    }

    /// Who pays for a request whose head names `named`: of one that this worker makes itself, whoever had it made.
    fn payer(&self, job: &Job, named: Option<&str>) -> Caller {
        let word = (!job.header.has(flags::HAS_TOKEN)).then_some(job.header.token);
        let shelves = self.shelves.get();
        if let Some(caller) = shelves.zip(word).and_then(|(it, word)| it.payer(word)) {
            return caller;
        }
        let usual = BillConfig::default();
        let bill = self.bill.get().unwrap_or(&usual);
        let (caller, word) = bill.caller(job.way.peer.ip(), named);
        // One that goes on after a wait has been counted.
        if let Some(word) = word.filter(|_| job.wake.is_none()) {
            self.parts.metrics.named(word);
        }
        caller
    }
}

/// The table's entry of a request that runs. Unless a reply takes its place it is forgotten, also when
/// the pool panics: else the client would be told for ever that its request is running.
struct RunningEntry<'a> {
    table: &'a Table,
    key: RequestKey,
    is_kept: bool,
}

impl Drop for RunningEntry<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.table.forget(self.key);
        }
    }
}

/// An outcome that does not invite the client to run again what has run in part: so would an error of the platform's
/// when a request that was parked is to go on.
fn beyond_repeating(header: &RpcHeader, outcome: Outcome) -> Outcome {
    if has_run(outcome.status) || header.has(flags::IDEMPOTENT) {
        return outcome;
    }
    let why = String::from_utf8_lossy(&outcome.payload);
    let message = format!(
        "the handler ran until it waited, and cannot go on: {}: {why}",
        outcome.status.name()
    );
    Outcome {
        usage: outcome.usage,
        ..Outcome::failed(Status::OutcomeUnknown, message)
    }
}

/// An outcome that fits the wire.
fn bounded(outcome: Outcome) -> Outcome {
    let bytes = outcome.payload.len();
    if outcome.status != Status::Ok || bytes <= MAX_MESSAGE {
        return outcome;
    }
    let message = format!(
        "the reply of {bytes} bytes is longer than the {MAX_MESSAGE} bytes a message may have"
    );
    Outcome {
        usage: outcome.usage,
        ..Outcome::failed(Status::BadReply, message)
    }
}
