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
use tokio::{pin, select, time};
use warmpath_sdk::fragment::Held;

use super::{
    Server,
    answer::{Reply, has_run},
    intake::{UNKNOWN_FUNCTION, Way},
    socket::send,
    table::{RequestKey, Table},
};
use crate::{
    invoke::Invoker,
    load::Permit,
    pool::{Invocation, Outcome},
};

/// A request that has a place to run in.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) way: Way,
    pub(super) key: RequestKey,
    pub(super) header: RpcHeader,
    pub(super) payload: Bytes,
    pub(super) cookie: u64,
    pub(super) permit: Permit,
    /// When the last of it came.
    pub(super) arrived: time::Instant,
}

impl<I: Invoker> Server<I> {
    /// Runs a request and answers it.
    pub(super) async fn serve(self: Arc<Self>, job: Job) {
        let begun = Instant::now();
        let mut entry = RunningEntry {
            table: &self.table,
            key: job.key,
            is_kept: false,
        };
        let outcome = self.outcome(&job).await;
        let took = begun.elapsed();
        let Outcome {
            status,
            payload,
            usage,
        } = bounded(outcome);
        let reply = Reply::new(&job.header, status, payload, job.cookie);
        let reply = Arc::new(match status {
            Status::Overloaded => reply.with_retry_after(self.parts.load.retry_after_ms()),
            _ => reply,
        });
        if has_run(status) || status == Status::OutcomeUnknown {
            entry.is_kept = true;
            self.table.finish(job.key, &reply, Instant::now());
        }
        drop(entry);
        self.parts.metrics.served(status, took, usage.cold);
        self.parts.load.took(took);
        // The place is free before the caller can know: a caller with one request at a time never
        // finds his own last one in its way.
        drop(job.permit);
        send(&job.way.socket, job.way.peer, &reply, Held::NONE).await;
    }

    async fn outcome(&self, job: &Job) -> Outcome {
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

    async fn invocation(&self, job: &Job) -> Result<Invocation, Outcome> {
        let header = &job.header;
        let function = match self.parts.functions.get(header.function) {
            Some(function) => Some(function),
            None => self.parts.functions.get_or_learn(header.function).await,
        };
        let Some(function) = function else {
            return Err(Outcome::failed(Status::UnknownFunction, UNKNOWN_FUNCTION));
        };
        let budget = Duration::from_millis(header.budget_ms.into());
        Ok(Invocation {
            function,
            request_id: header.request_id,
            session: header.has(flags::HAS_SESSION).then_some(header.session_id),
            payload: job.payload.clone(),
            arrived: job.arrived,
            caller_deadline: (!budget.is_zero()).then(|| job.arrived + budget),
        })
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
