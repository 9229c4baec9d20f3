//! The pool's own tasks: what starts instances, what buries them, what evicts them. They hold the pool
//! weakly, so that it goes when its owner drops it.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use ebpf_common::wire::Status;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Pool,
    budget::Share,
    function::{FunctionPool, Refusal},
    instance::Remains,
    policy::{Room, victim},
    start,
};

/// How often idle instances are looked at; a quarter of the time-out when that is shorter.
const EVICTION_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// While the budget is full, how long until it is looked at again without being told of a change: an
/// instance may have become idle, and can be evicted, without anyone saying so.
const BUDGET_RETRY: Duration = Duration::from_millis(5);

/// Starts an instance for each function that comes: one after the other as to memory, all at once as to
/// the rest.
pub(super) async fn start_instances(
    pool: Weak<Pool>,
    mut wanted: mpsc::UnboundedReceiver<Arc<FunctionPool>>,
) {
    while let Some(function) = wanted.recv().await {
        let Some(share) = reserve(&pool, &function).await else {
            continue;
        };
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let tasks = pool.tasks.clone();
        tasks.spawn(async move {
            let started = start::instance(&pool, &function, share).await;
            if started.is_ok() {
                pool.counters.cold_starts.fetch_add(1, Ordering::Relaxed);
            }
            // An instance that nobody waits for any more is idle now, unless the pool is stopping.
            if started.is_ok() && pool.is_stopping() {
                function.cancelled();
            } else if function.started(started) {
                pool.publish_warm();
            }
        });
    }
}

/// Memory for an instance of `function`, with others evicted for it if need be. `None` when nobody waits
/// for it any more, or nobody ever can.
async fn reserve(pool: &Weak<Pool>, function: &Arc<FunctionPool>) -> Option<Share> {
    loop {
        let pool = pool.upgrade()?;
        let (demand, _) = function.demand();
        if demand.wanted == 0 || pool.is_stopping() {
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
                function.started(Err(Refusal {
                    status: Status::SandboxUnavailable,
                    message,
                }));
                return None;
            }
            Err(Room::Full) => evict_one(&pool),
            Err(Room::Soon | Room::Enough) => {}
        }
        let changed = pool.budget.changed.notified();
        // Woken early or late, the loop looks again.
        drop(tokio::time::timeout(BUDGET_RETRY, changed).await);
    }
}

fn evict_one(pool: &Pool) {
    let functions = pool.functions.all();
    let idle = functions.iter().filter_map(|function| {
        function
            .oldest_idle()
            .map(|(number, since)| ((function, number), since))
    });
    if let Some((function, number)) = victim(idle)
        && function.take_idle(number).is_some()
    {
        pool.counters.evictions.fetch_add(1, Ordering::Relaxed);
    }
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
        if starts && pool.starts.send(Arc::clone(&function)).is_err() {
            function.cancelled();
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

/// Ends instances that have been idle for too long.
pub(super) async fn evict_idle(pool: Weak<Pool>) {
    let Some(idle_timeout) = pool.upgrade().map(|pool| pool.config.limits.idle_timeout()) else {
        return;
    };
    let interval = (idle_timeout / 4).clamp(Duration::from_millis(1), EVICTION_INTERVAL_MAX);
    loop {
        tokio::time::sleep(interval).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let Some(since) = Instant::now().checked_sub(idle_timeout) else {
            continue;
        };
        for function in pool.functions.all() {
            let ended = function.take_idle_before(Some(since));
            pool.counters
                .evictions
                .fetch_add(ended.len() as u64, Ordering::Relaxed);
        }
        pool.functions.tidy();
        // Sandboxes that could not be made a while ago may be possible now.
        pool.stock.fill();
        pool.running().retain(|sandbox| sandbox.strong_count() > 0);
    }
}
