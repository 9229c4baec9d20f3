//! A request in its instance, from the invoke frame to the bill; and, if the handler streams, what of it goes on after
//! the RPC server has been told so.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use ebpf_common::wire::{Fault, Status};
use prometheus::Histogram;
use tokio::time::{Instant, error::Elapsed, timeout_at};
use warmpath_sdk::http::ResponseHead;

use super::{
    Deadline, Invocation, Outcome, Pool,
    connection::Broken,
    conversation::{Answer, Conversation, Database, GivenUp},
    function::FunctionPool,
    instance::{Body, Instance},
    invocation::{Path, Streams},
    roster::Places,
    serve::{micros, waited_too_long},
    verdict::Verdict,
};
use crate::{
    bill::{Ticket, Usage},
    profile::Tap,
    runtime::protocol::InvokeMeta,
    stream::{Claim, End, Port, Streaming, WINDOW},
};

/// One request, from its entry to its bill.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) pool: Arc<Pool>,
    pub(super) function: Arc<FunctionPool>,
    pub(super) invocation: Invocation,
    pub(super) entered: Instant,
}

/// One that has its instance.
#[derive(Debug)]
pub(super) struct Serving {
    visit: Visit,
    instance: Instance,
    path: Path,
    deadline: Deadline,
    usage: Usage,
    /// Absent before the handler is called.
    called: Option<Called>,
    /// Once the handler has begun a stream: what stands before it.
    opened: Option<Option<ResponseHead>>,
}

#[derive(Debug)]
struct Called {
    conversation: Conversation,
    ticket: Ticket,
}

/// How a conversation ended, unless the time ended first.
pub(super) type Answered = Result<Result<Answer, Broken>, Elapsed>;

impl Visit {
    /// Puts an outcome on its bill. `carried` are the bytes that went in and out beside event and reply.
    pub(super) fn settle(self, mut outcome: Outcome, carried: (u64, u64)) -> Outcome {
        let (body, stream) = carried;
        outcome.usage.wall_us = micros(self.entered.elapsed());
        outcome.usage.bytes_in = self.invocation.payload.len() as u64 + body;
        outcome.usage.bytes_out = outcome.payload.len() as u64 + stream;
        let ledger = &self.pool.ledger;
        let succeeded = outcome.status.fault() == Fault::Nobody;
        let account = self.function.account(ledger);
        ledger.record(account, self.invocation.caller, &outcome.usage, succeeded);
        outcome
    }
}

impl Serving {
    pub(super) fn new(visit: Visit, instance: Instance, path: Path) -> Self {
        Self {
            deadline: visit.invocation.deadline_from(Instant::now()),
            visit,
            instance,
            path,
            usage: Usage::default(),
            called: None,
            opened: None,
        }
    }

    /// Runs the handler to its answer. One that streams is handed back, and so is one whose body is still to come.
    pub(super) async fn run(mut self) -> Outcome {
        if self.visit.invocation.streams == Streams::Both {
            return Outcome::streams(Box::new(self));
        }
        if self.left().is_zero() {
            return self.too_late();
        }
        let answered = timeout_at(self.deadline.at, self.call()).await;
        if let Ok(Ok(Answer::Opens(head))) = answered {
            self.opened = Some(head);
            return Outcome::streams(Box::new(self));
        }
        let (visit, outcome) = self.end(answered);
        visit.settle(outcome, (0, 0))
    }

    async fn call(&mut self) -> Result<Answer, Broken> {
        self.begin().await?;
        let Some(called) = &mut self.called else {
            return Err(Broken::Closed);
        };
        let mut db = Database {
            router: &self.visit.pool.db,
            ops: &mut self.usage.db,
        };
        let line = &mut self.instance.line;
        called.conversation.answer(line, &mut db).await
    }

    /// Has the handler called.
    async fn begin(&mut self) -> Result<(), Broken> {
        let (invocation, function) = (&self.visit.invocation, &self.visit.function);
        let now = Instant::now();
        let left = self.deadline.at.saturating_duration_since(now);
        let tap = function.profile.tap();
        let meta = InvokeMeta {
            call: None,
            request_id: invocation.request_id,
            session: invocation.session,
            deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            function: &invocation.function.qualified,
            wake: invocation.wake.as_ref(),
            http: invocation.http.as_deref(),
            stream: (invocation.streams != Streams::None).then_some(WINDOW),
            body_follows: invocation.streams == Streams::Both,
            profile: tap.as_ref().map(Tap::hz),
        };
        self.visit.pool.counters.paths[self.path as usize].fetch_add(1, Ordering::Relaxed);
        self.instance.set_used();
        self.usage = started(&self.instance, self.path, self.visit.entered, now);
        let (line, body) = self.instance.parts();
        body.output().begin(invocation.request_id);
        let ticket = body.begin();
        let begun = Conversation::begin(line, meta, &invocation.payload, tap);
        let begun = if body.is_paused() {
            thaw(begun, body, &self.visit.pool.counters.thaw_seconds).await
        } else {
            begun.await
        };
        match begun {
            Ok(conversation) => {
                self.called = Some(Called {
                    conversation,
                    ticket,
                });
                Ok(())
            }
            Err(broken) => {
                self.charge(ticket);
                Err(broken)
            }
        }
    }

    fn left(&self) -> Duration {
        self.deadline.at.saturating_duration_since(Instant::now())
    }

    /// It is not called any more: its instance serves others.
    fn too_late(self) -> Outcome {
        self.visit.function.release(self.instance);
        let refusal = waited_too_long(&self.visit.invocation, self.deadline);
        let outcome = Outcome::failed(refusal.status, refusal.message);
        self.visit.settle(outcome, (0, 0))
    }

    /// The instance has no more to do for the request: what it used.
    fn charge(&mut self, ticket: Ticket) {
        let body = self.instance.body();
        let (charge, peak_kb) = body.charge(ticket);
        body.output().end(self.visit.invocation.request_id);
        let memory_mb = self.visit.function.entry.manifest.memory_mb;
        self.usage.add(charge, memory_mb);
        self.usage.memory_peak_kb = peak_kb;
    }

    /// What the answer means, for the caller and for the instance: it serves others, or is ended.
    fn end(mut self, answered: Answered) -> (Visit, Outcome) {
        let mut given_up = None;
        if let Some(called) = self.called.take() {
            given_up = called.conversation.given_up();
            self.charge(called.ticket);
        }
        let Self {
            visit,
            instance,
            deadline,
            usage,
            ..
        } = self;
        let Verdict { outcome, serves_on } =
            Verdict::of(&visit, &instance, answered, deadline, given_up);
        let outcome = Outcome { usage, ..outcome };
        if serves_on {
            visit.function.release(instance);
            return (visit, outcome);
        }
        if outcome.status != Status::InstanceLost {
            let destroyed = &visit.pool.counters.destroyed;
            destroyed.fetch_add(1, Ordering::Relaxed);
        }
        tracing::debug!(
            function = visit.invocation.function.qualified,
            instance = usage.instance,
            status = outcome.status.name(),
            output = instance.body().output().tail(),
            "an instance is ended"
        );
        visit.function.discard(instance);
        (visit, outcome)
    }

    /// Body and reply, through `port`, to the answer.
    async fn stream(&mut self, port: &mut Port) -> Result<Answer, Broken> {
        let head = match self.opened.take() {
            Some(head) => head,
            None => {
                if !self.instance.line.streams() {
                    let body = port.whole_body().await;
                    self.visit.invocation.payload = body.map_err(Broken::Body)?;
                    self.visit.invocation.streams = Streams::Reply;
                }
                self.begin().await?;
                match self.go_on(port).await? {
                    Answer::Opens(head) => head,
                    other => return Ok(other),
                }
            }
        };
        if let Err(error) = port.begin(head) {
            tracing::debug!(%error, "a stream has a head that it cannot have");
            return Err(Broken::Head);
        }
        self.go_on(port).await
    }

    async fn go_on(&mut self, port: &mut Port) -> Result<Answer, Broken> {
        let Some(called) = &mut self.called else {
            return Err(Broken::Closed);
        };
        let mut db = Database {
            router: &self.visit.pool.db,
            ops: &mut self.usage.db,
        };
        let line = &mut self.instance.line;
        called.conversation.stream(line, port, &mut db).await
    }

    async fn drive(mut self, claim: Claim) -> (End, Outcome) {
        let mut port = claim.open();
        let until = self.deadline.at;
        let answered = timeout_at(until, self.stream(&mut port)).await;
        let conversation = self.called.as_mut().map(|called| &mut called.conversation);
        let (rest, given_up) = conversation.map_or_else(Default::default, |conversation| {
            (conversation.rest(), conversation.given_up())
        });
        // From here on the instance serves others: whoever reads slowly keeps it no longer.
        let (visit, mut outcome) = self.end(answered);
        if !port.is_answered() {
            let outcome = visit.settle(outcome, port.carried());
            let end = end_of(&outcome, given_up);
            port.answer(&outcome);
            return (end, outcome);
        }
        if outcome.status == Status::Ok {
            let last = std::mem::take(&mut outcome.payload);
            let pieces = rest.into_iter().chain((!last.is_empty()).then_some(last));
            let sent = timeout_at(until, port.send_all(pieces)).await;
            if !matches!(sent, Ok(Ok(()))) {
                let message = "the caller did not take the whole stream in its time";
                outcome = Outcome {
                    usage: outcome.usage,
                    ..Outcome::failed(Status::BudgetExceeded, message)
                };
            }
        }
        let outcome = visit.settle(outcome, port.carried());
        if outcome.status == Status::Ok {
            port.finish(outcome.usage.to_string()).await;
        }
        (end_of(&outcome, given_up), outcome)
    }

    async fn dismiss(mut self, grace: Duration) -> Outcome {
        let Some(called) = &mut self.called else {
            let (visit, instance) = (self.visit, self.instance);
            visit.function.release(instance);
            let outcome = Outcome::failed(Status::BudgetExceeded, UNCLAIMED);
            return visit.settle(outcome, (0, 0));
        };
        let mut db = Database {
            router: &self.visit.pool.db,
            ops: &mut self.usage.db,
        };
        let line = &mut self.instance.line;
        let conversation = &mut called.conversation;
        let ended = conversation
            .give_up(line, GivenUp::HungUp, grace, &mut db)
            .await;
        let (visit, outcome) = self.end(Ok(ended));
        visit.settle(outcome, (0, 0))
    }
}

impl Streaming for Serving {
    fn drive(
        self: Box<Self>,
        claim: Claim,
    ) -> Pin<Box<dyn Future<Output = (End, Outcome)> + Send>> {
        Box::pin(Self::drive(*self, claim))
    }

    fn dismiss(self: Box<Self>, grace: Duration) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        Box::pin(Self::dismiss(*self, grace))
    }
}

const UNCLAIMED: &str = "nobody came for the stream in time";

fn end_of(outcome: &Outcome, given_up: Option<GivenUp>) -> End {
    match given_up {
        Some(GivenUp::HungUp) => End::HungUp,
        _ if outcome.status == Status::Ok => End::Whole,
        _ => End::Failed,
    }
}

/// Begins a conversation with a paused instance: it is told first and runs then, so that it wakes once, to everything it
/// has to know. What its socket has no room for yet, it is told when it runs.
async fn thaw(
    begun: impl Future<Output = Result<Conversation, Broken>>,
    body: &Body,
    thaw_seconds: &Histogram,
) -> Result<Conversation, Broken> {
    let mut begun = pin!(begun);
    let told = poll_fn(|context| Poll::Ready(begun.as_mut().poll(context))).await;
    let since = Instant::now();
    if let Err(error) = body.resume() {
        tracing::warn!(%error, instance = body.number(), "cannot thaw an instance");
        return Err(Broken::Closed);
    }
    thaw_seconds.observe(since.elapsed().as_secs_f64());
    match told {
        Poll::Ready(told) => told,
        Poll::Pending => begun.await,
    }
}

/// The part of the bill that is known when the handler begins, at `now`.
fn started(instance: &Instance, path: Path, entered: Instant, now: Instant) -> Usage {
    let cold = matches!(path, Path::Zygote | Path::Cold);
    // It may have been in the making before the request came, and gone on idle after that.
    let since = entered.max(instance.body().begun());
    Usage {
        queue_us: micros(now.saturating_duration_since(entered)),
        cold_us: if cold {
            micros(now.saturating_duration_since(since))
        } else {
            0
        },
        cold,
        instance: instance.number(),
        path: Some(path),
        ..Usage::default()
    }
}
