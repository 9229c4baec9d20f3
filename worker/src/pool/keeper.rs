//! The pool's own tasks: what starts instances, what buries them, what tends those that idle. They hold the
//! pool weakly, so that it goes when its owner drops it.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use ebpf_common::wire::Status;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Pool,
    budget::Share,
    function::{FunctionPool, Refusal, Warmth},
    instance::{Instance, Remains},
    policy::Room,
    start,
    stock::Stock,
};
use crate::sandbox;

/// How often idle instances are looked at; a quarter of the time after which something happens to them when
/// that is shorter.
const TEND_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// While the budget is full, how long until it is looked at again without being told of a change: an
/// instance may have become idle, and can be evicted, without anyone saying so.
const BUDGET_RETRY: Duration = Duration::from_millis(5);

/// An instance to be started.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) function: Arc<FunctionPool>,
    /// `None`: a request waits for it.
    pub(super) warmth: Option<Warmth>,
}

/// Starts the instances that are wanted: one after the other as to memory, all at once as to the rest.
pub(super) async fn start_instances(pool: Weak<Pool>, mut wanted: mpsc::UnboundedReceiver<Wanted>) {
    while let Some(wanted) = wanted.recv().await {
        let Some(share) = reserve(&pool, &wanted).await else {
            continue;
        };
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let function = wanted.function;
        let tasks = pool.tasks.clone();
        tasks.spawn(async move {
            let begun = Instant::now();
            let started = start::instance(&pool, &function, share).await;
            if started.is_ok() {
                pool.counters.cold_starts.fetch_add(1, Ordering::Relaxed);
            }
            // An instance that nobody waits for any more is idle now, unless the pool is stopping.
            if started.is_ok() && pool.is_stopping() {
                function.cancelled();
            } else if function.started(started, begun.elapsed()) {
                pool.publish_warm();
            }
        });
    }
}

/// Memory for an instance, with others evicted for it if need be. `None` when nobody waits for it any more,
/// or nobody ever can, or only warmth is wanted and nothing can be evicted for it.
async fn reserve(pool: &Weak<Pool>, wanted: &Wanted) -> Option<Share> {
    let function = &wanted.function;
    loop {
        let pool = pool.upgrade()?;
        let is_wanted = wanted.warmth.is_some() || function.standing().demand.wanted > 0;
        if !is_wanted || pool.is_stopping() {
            function.cancelled();
            return None;
        }
        let needed_mb = function.entry.manifest.memory_mb;
        match pool.budget.reserve(needed_mb) {
            Ok(share) => return Some(share),
            Err(Room::Never) => {
                let limit_mb = pool.budget.limit_mb();
                let message = format!(
                    "{} needs {needed_mb} MB and this worker has {limit_mb} MB for all instances",
                    function.entry.qualified
                );
                let refusal = Refusal {
                    status: Status::SandboxUnavailable,
                    message,
                };
                function.started(Err(refusal), Duration::ZERO);
                return None;
            }
            Err(Room::Full) => {
                // A forecast is no reason to end anything.
                let may_evict = wanted.warmth != Some(Warmth::Forecast);
                let has_evicted = may_evict && evict_one(&pool);
                if wanted.warmth.is_some() && !has_evicted {
                    function.cancelled();
                    return None;
                }
            }
            Err(Room::Soon | Room::Enough) => {}
        }
        let changed = pool.budget.changed.notified();
        // Woken early or late, the loop looks again.
        drop(tokio::time::timeout(BUDGET_RETRY, changed).await);
    }
}

/// Ends the idle instance that is worth least; false when there is none.
fn evict_one(pool: &Pool) -> bool {
    let functions = pool.functions.all();
    let candidates = functions.iter().flat_map(|function| {
        let candidates = function.candidates().into_iter();
        candidates.map(move |(number, candidate)| ((function, number), candidate))
    });
    let Some((function, number)) = pool.functions.clock().victim(candidates) else {
        return false;
    };
    let has_ended = function.take_idle(number).is_some();
    if has_ended {
        pool.counters.evictions.fetch_add(1, Ordering::Relaxed);
        pool.counters
            .evicted_for_memory
            .fetch_add(1, Ordering::Relaxed);
    }
    has_ended
}

/// Removes from the host what is left of ended instances.
pub(super) async fn bury(pool: Weak<Pool>, mut ended: mpsc::UnboundedReceiver<Remains>) {
    while let Some(remains) = ended.recv().await {
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let Remains {
            sandbox,
            gauge,
            share,
            function,
            counted,
        } = remains;
        let (last, starts) = if counted {
            function.lost(sandbox.id())
        } else {
            (false, false)
        };
        if last {
            pool.publish_warm();
        }
        if starts {
            pool.start_instance(&function, None);
        }
        let (counters, ledger) = (Arc::clone(&pool.counters), Arc::clone(&pool.ledger));
        pool.tasks.spawn_blocking(move || {
            sandbox.end();
            let unbilled = gauge.remainder(sandbox.consumption());
            counters
                .unbilled_cpu_ns
                .fetch_add(unbilled, Ordering::Relaxed);
            ledger.record_unbilled(function.account(&ledger), unbilled);
            drop(sandbox);
            // Only now is the memory free.
            drop(share);
        });
    }
}

/// Pauses instances that idle, ends those that have done so for too long, and starts those that are to be
/// there before anyone asks.
pub(super) async fn tend(pool: Weak<Pool>) {
    let Some((idle_timeout, pause_after)) = pool.upgrade().map(|pool| {
        let can_pause = pool.cgroup.can_pause();
        let limits = &pool.config.limits;
        (
            limits.idle_timeout(),
            limits.pause_after().filter(|_| can_pause),
        )
    }) else {
        return;
    };
    let shortest = pause_after.map_or(idle_timeout, |pause| pause.min(idle_timeout));
    let interval = (shortest / 4).clamp(Duration::from_millis(1), TEND_INTERVAL_MAX);
    let mut reaped = Instant::now();
    loop {
        let Some(told) = pool.upgrade().map(|pool| Arc::clone(&pool.tend_now)) else {
            return;
        };
        // Told or not, all is looked at.
        drop(tokio::time::timeout(interval, told.notified()).await);
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let now = Instant::now();
        let functions = pool.functions.all();
        for function in &functions {
            let ended = function.take_expired(now);
            pool.counters
                .evictions
                .fetch_add(ended.len() as u64, Ordering::Relaxed);
            while let Some(warmth) = function.lacks_warmth(now) {
                pool.start_instance(function, Some(warmth));
            }
        }
        if let Some(since) = pause_after.and_then(|pause| now.checked_sub(pause)) {
            pause_idle(&pool, &functions, since);
        }
        pool.functions.tidy();
        // Sandboxes that could not be made a while ago may be possible now.
        pool.stock.tend();
        pool.networked.iter().for_each(Stock::tend);
        pool.zygotes.tend();
        pool.running().retain(|sandbox| sandbox.strong_count() > 0);
        // A child that has ended and is nobody's orphan yet makes this look at all of them.
        if now.duration_since(reaped) >= TEND_INTERVAL_MAX {
            sandbox::reap_orphans();
            reaped = now;
        }
    }
}

/// Pauses the instances that have been idle since before `since`.
fn pause_idle(pool: &Pool, functions: &[Arc<FunctionPool>], since: Instant) {
    for function in functions {
        for instance in function.take_to_pause(since) {
            let function = Arc::clone(function);
            pool.tasks.spawn_blocking(move || {
                pause(&instance);
                function.paused(instance);
            });
        }
    }
}

fn pause(instance: &Instance) {
    if let Err(error) = instance.pause() {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "an instance runs on while it idles"
        );
    }
}
