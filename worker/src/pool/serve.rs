//! One request's way through the pool, and what its end means.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ebpf_common::wire::{Fault, Status};
use store::AffinityKind;
use tokio::{sync::oneshot, time::Instant};
use warmpath_sdk::http::ResponseHead;

use super::{
    Deadline, Invocation, Outcome, Pool,
    connection::{Answer, Broken},
    function::{FunctionPool, Refusal, Warmth},
    instance::Instance,
    invocation::Path,
    keeper::Wanted,
    roster::{Granted, Places, Seat},
};
use crate::{bill::Usage, profile::Tap, runtime::protocol::InvokeMeta};

/// The exception that means what a kill for want of memory means.
const MEMORY_ERROR: &str = "MemoryError";
/// What an HTTP server answers when the application raises.
const EXCEPTION_STATUS: u16 = 500;

impl Pool {
    /// Runs one request to its end. Dropping the future ends the instance that serves it.
    pub async fn invoke(&self, invocation: Invocation) -> Outcome {
        let entered = Instant::now();
        let function = self.functions.of(&invocation.function);
        let mut outcome = match self.instance_for(&function, &invocation, entered).await {
            Ok((instance, path)) => {
                let place = (instance, path);
                self.run(&function, place, &invocation, entered).await
            }
            Err(refusal) => Outcome {
                usage: Usage {
                    queue_us: micros(entered.elapsed()),
                    ..Usage::default()
                },
                ..Outcome::failed(refusal.status, refusal.message)
            },
        };
        outcome.usage.wall_us = micros(entered.elapsed());
        outcome.usage.bytes_in = invocation.payload.len() as u64;
        outcome.usage.bytes_out = outcome.payload.len() as u64;
        let account = function.account(&self.ledger);
        let succeeded = outcome.status.fault() == Fault::Nobody;
        self.ledger
            .record(account, invocation.caller, &outcome.usage, succeeded);
        outcome
    }

    /// An instance that is alive as far as anyone can know.
    async fn instance_for(
        &self,
        function: &Arc<FunctionPool>,
        invocation: &Invocation,
        now: Instant,
    ) -> Result<(Instance, Path), Refusal> {
        let is_sticky = function.entry.manifest.affinity == AffinityKind::Session;
        let session = invocation.session.filter(|_| is_sticky);
        loop {
            if self.is_stopping() {
                return Err(stopping());
            }
            let (seat, starts) = function.seat(session, now);
            if starts {
                self.start_one(function);
            }
            let (instance, has_waited) = match seat {
                Seat::Taken(instance) => (instance, false),
                Seat::Waits(grant) => (self.wait(function, grant, invocation, true).await?, true),
                Seat::WaitsForOne(grant) => {
                    (self.wait(function, grant, invocation, false).await?, true)
                }
            };
            if instance.is_sound()
                && let Some(path) = self.rouse(&instance, has_waited)
            {
                return Ok((instance, path));
            }
            // It ended while idle, broke the protocol, or has a secret that is no more: no request of ours saw it, so
            // another one serves.
            tracing::debug!(
                function = function.entry.qualified,
                "an idle instance is of no use"
            );
            self.counters.destroyed.fetch_add(1, Ordering::Relaxed);
            function.discard(instance);
        }
    }

    /// Has an instance run, and says where it came from; `None` when it cannot be thawed.
    fn rouse(&self, instance: &Instance, has_waited: bool) -> Option<Path> {
        if instance.is_paused() {
            let begun = Instant::now();
            if let Err(error) = instance.resume() {
                tracing::warn!(%error, instance = instance.number(), "cannot thaw an instance");
                return None;
            }
            self.counters
                .thaw_seconds
                .observe(begun.elapsed().as_secs_f64());
            return Some(Path::Paused);
        }
        // One that was there already was started for somebody else, or for nobody.
        Some(if has_waited && instance.is_fresh() {
            instance.origin()
        } else {
            Path::Warm
        })
    }

    /// Waits in a queue until an instance comes or the deadline passes.
    async fn wait(
        &self,
        function: &Arc<FunctionPool>,
        mut grant: oneshot::Receiver<Granted<Instance, Refusal>>,
        invocation: &Invocation,
        any: bool,
    ) -> Result<Instance, Refusal> {
        let _place = Place::take(self)?;
        let deadline = invocation.wait_deadline();
        let scale_up_after = Duration::from_micros(self.config.limits.scale_up_after_us);
        let patience = Instant::now() + scale_up_after;
        let granted = if any && patience < deadline.at {
            match tokio::time::timeout_at(patience, &mut grant).await {
                Ok(granted) => Some(granted),
                Err(_) => {
                    if function.is_short() {
                        self.start_one(function);
                    }
                    tokio::time::timeout_at(deadline.at, grant).await.ok()
                }
            }
        } else {
            tokio::time::timeout_at(deadline.at, grant).await.ok()
        };
        match granted {
            Some(Ok(granted)) => granted,
            Some(Err(_)) => Err(stopping()),
            None => Err(waited_too_long(invocation, deadline)),
        }
    }

    fn start_one(&self, function: &Arc<FunctionPool>) {
        self.start_instance(function, None);
    }

    /// Has an instance started that a request asked for, or warmth alone.
    pub(super) fn start_instance(&self, function: &Arc<FunctionPool>, warmth: Option<Warmth>) {
        let wanted = Wanted {
            function: Arc::clone(function),
            warmth,
        };
        if self.starts.send(wanted).is_err() {
            function.cancelled();
        }
    }

    /// Has `instance` serve the request, and lets it serve others if it is still sound after that.
    async fn run(
        &self,
        function: &FunctionPool,
        (mut instance, path): (Instance, Path),
        invocation: &Invocation,
        entered: Instant,
    ) -> Outcome {
        let now = Instant::now();
        let deadline = invocation.deadline_from(now);
        let left = deadline.at.saturating_duration_since(now);
        if left.is_zero() {
            function.release(instance);
            let refusal = waited_too_long(invocation, deadline);
            return Outcome::failed(refusal.status, refusal.message);
        }
        let tap = function.profile.tap();
        let meta = InvokeMeta {
            call: None,
            request_id: invocation.request_id,
            session: invocation.session,
            deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            function: &invocation.function.qualified,
            wake: invocation.wake.as_ref(),
            http: invocation.http.as_deref(),
            profile: tap.as_ref().map(Tap::hz),
        };
        self.counters.paths[path as usize].fetch_add(1, Ordering::Relaxed);
        instance.set_used();
        let mut usage = started(&instance, path, entered, now);
        instance.body().output().begin(invocation.request_id);
        let ticket = instance.body().begin();
        let answered = {
            let event = &invocation.payload;
            let invoked = instance.invoke(meta, event, tap, &self.db, &mut usage.db);
            tokio::time::timeout_at(deadline.at, invoked).await
        };
        let (charge, peak_kb) = instance.body().charge(ticket);
        instance.body().output().end(invocation.request_id);
        usage.add(charge, function.entry.manifest.memory_mb);
        usage.memory_peak_kb = peak_kb;
        let (status, message) = match answered {
            Ok(Ok(Answer::Result(payload, http))) => {
                function.release(instance);
                return Outcome {
                    http,
                    ..Outcome::replied(payload, usage)
                };
            }
            Ok(Ok(Answer::Wait(wait))) => {
                function.release(instance);
                return Outcome::waits(wait, usage);
            }
            Ok(Ok(Answer::Exception(error))) if error.kind != MEMORY_ERROR => {
                let message = format!("{}: {}", error.kind, error.message);
                function.release(instance);
                let http = invocation.http.as_ref().map(|_| ResponseHead {
                    status: EXCEPTION_STATUS,
                    headers: Vec::new(),
                });
                return Outcome {
                    usage,
                    http,
                    ..Outcome::failed(Status::Exception, message)
                };
            }
            Ok(Ok(Answer::Exception(_))) => out_of_memory(function),
            Ok(Err(broken)) => self.why_broken(function, &instance, &broken),
            Err(_) => took_too_long(function, deadline),
        };
        if status != Status::InstanceLost {
            self.counters.destroyed.fetch_add(1, Ordering::Relaxed);
        }
        tracing::debug!(
            function = invocation.function.qualified,
            instance = usage.instance,
            status = status.name(),
            output = instance.body().output().tail(),
            "an instance is ended"
        );
        function.discard(instance);
        Outcome {
            usage,
            ..Outcome::failed(status, message)
        }
    }

    fn why_broken(
        &self,
        function: &FunctionPool,
        instance: &Instance,
        broken: &Broken,
    ) -> (Status, String) {
        match broken {
            Broken::Closed if self.is_stopping() => {
                let message = "the worker stopped while the handler ran";
                (Status::OutcomeUnknown, message.to_owned())
            }
            Broken::Closed if instance.body().is_out_of_memory() => out_of_memory(function),
            Broken::Closed => (Status::Crashed, broken.to_string()),
            Broken::Frame(_) | Broken::OutOfTurn(_) | Broken::UnknownCall(_) => {
                (Status::BadReply, broken.to_string())
            }
            Broken::Neighbour => (Status::InstanceLost, broken.to_string()),
        }
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

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A place in the queues of all functions together.
struct Place<'a>(&'a Pool);

impl<'a> Place<'a> {
    fn take(pool: &'a Pool) -> Result<Self, Refusal> {
        let place = Self(pool);
        let waiting = pool.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting >= pool.config.limits.queue_len_max {
            let message = format!("{waiting} requests wait for an instance already");
            return Err(Refusal {
                status: Status::Overloaded,
                message,
            });
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn stopping() -> Refusal {
    Refusal {
        status: Status::Draining,
        message: "the worker is stopping".to_owned(),
    }
}

fn waited_too_long(invocation: &Invocation, deadline: Deadline) -> Refusal {
    // That no instance came in time is nobody's fault but ours, unless the caller gave too little.
    let status = if deadline.is_callers {
        Status::BudgetExceeded
    } else {
        Status::Overloaded
    };
    let message = format!(
        "no instance of {} became free in time",
        invocation.function.qualified
    );
    Refusal { status, message }
}

fn took_too_long(function: &FunctionPool, deadline: Deadline) -> (Status, String) {
    if deadline.is_callers {
        let message = "the caller's time ran out before the handler answered";
        return (Status::BudgetExceeded, message.to_owned());
    }
    let timeout_ms = function.entry.manifest.timeout_ms;
    (
        Status::Timeout,
        format!("the handler took longer than its {timeout_ms} ms"),
    )
}

fn out_of_memory(function: &FunctionPool) -> (Status, String) {
    let memory_mb = function.entry.manifest.memory_mb;
    (
        Status::OutOfMemory,
        format!("the handler needed more than its {memory_mb} MB"),
    )
}
