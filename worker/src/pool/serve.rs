//! One request's way to an instance.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ebpf_common::wire::Status;
use store::AffinityKind;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Deadline, Invocation, Outcome, Pool,
    function::{FunctionPool, Refusal, Warmth},
    instance::Instance,
    invocation::Path,
    keeper::Wanted,
    roster::{Granted, Places, Seat},
    serving::{Serving, Visit},
};
use crate::bill::Usage;

impl Pool {
    /// Runs one request to its end, or to the beginning of a stream. Dropping the future ends the instance that serves it.
    pub async fn invoke(self: &Arc<Self>, invocation: Invocation) -> Outcome {
        let entered = Instant::now();
        self.cpu_latency.request_came();
        let function = self.functions.of(&invocation.function);
        let found = self.instance_for(&function, &invocation, entered).await;
        let visit = Visit {
            pool: Arc::clone(self),
            function,
            invocation,
            entered,
        };
        match found {
            Ok((instance, path)) => Serving::new(visit, instance, path).run().await,
            Err(refusal) => {
                let usage = Usage {
                    queue_us: micros(entered.elapsed()),
                    ..Usage::default()
                };
                let outcome = Outcome {
                    usage,
                    ..Outcome::failed(refusal.status, refusal.message)
                };
                visit.settle(outcome, (0, 0))
            }
        }
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
            if instance.is_sound() {
                let path = path_of(&instance, has_waited);
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
}

/// Where an instance came from, for the request that has it now.
fn path_of(instance: &Instance, has_waited: bool) -> Path {
    if instance.is_paused() {
        Path::Paused
    } else if has_waited && instance.is_fresh() {
        instance.origin()
    } else {
        // One that was there already was started for somebody else, or for nobody.
        Path::Warm
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
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

pub(super) fn waited_too_long(invocation: &Invocation, deadline: Deadline) -> Refusal {
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
