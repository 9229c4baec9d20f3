//! Carries plans out: in slices, keeping step with what the kernel has taken.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    maps::{FunctionEntry, WorkerLoad, name},
};
use tracing::error;

use super::RETRY_WRITES;
use crate::{
    loads::Report,
    maps::{MapStore, WriteError},
    metrics::Metrics,
    ports::Ports,
    rate_limit::RateLimit,
    reconcile::{
        self,
        tables::{ActualTables, DesiredTables, MapWrite},
    },
};

const LOG_EVERY: Duration = Duration::from_secs(10);
/// How many writes go between two looks at the clock.
const WRITES_A_LOOK: usize = 32;

#[derive(Debug)]
pub(super) struct Applier<S> {
    store: S,
    actual: ActualTables,
    pending: VecDeque<MapWrite>,
    /// Writes that the kernel refused are planned again from here on.
    retry_at: Option<Instant>,
    metrics: Arc<Metrics>,
    log: RateLimit,
}

impl<S: MapStore> Applier<S> {
    pub(super) fn new(store: S, actual: ActualTables, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            actual,
            pending: VecDeque::new(),
            retry_at: None,
            metrics,
            log: RateLimit::new(LOG_EVERY),
        }
    }

    /// What the maps hold now.
    pub(super) const fn actual(&self) -> &ActualTables {
        &self.actual
    }

    /// Replaces the plan by one that leads to `desired` from here.
    pub(super) fn plan(&mut self, desired: &DesiredTables) {
        self.pending = reconcile::plan(desired, &self.actual).into();
    }

    /// Begins to make the standby copies the same as the live ones, if there is nothing else to do.
    pub(super) fn prepare_standby(&mut self) {
        if self.pending.is_empty() {
            self.pending = reconcile::standby_writes(&self.actual).into();
        }
    }

    /// Carries the plan on for about `slice`.
    pub(super) fn apply(&mut self, slice: Duration) {
        let started = Instant::now();
        while !self.pending.is_empty() && started.elapsed() < slice {
            for _ in 0..WRITES_A_LOOK {
                let Some(write) = self.pending.pop_front() else {
                    break;
                };
                if !self.write(&write) && must_precede_others(&write) {
                    self.pending.clear();
                }
            }
        }
    }

    /// Sets the row of function `id`, or removes it. Returns false if the kernel refused.
    pub(super) fn function(&mut self, id: FunctionId, row: Option<FunctionEntry>) -> bool {
        let is = self.actual.functions.get(&id.0);
        match row {
            Some(entry) if is != Some(&entry) => self.write(&MapWrite::Function(id.0, entry)),
            None if is.is_some() => self.write(&MapWrite::RemoveFunction(id.0)),
            _ => true,
        }
    }

    /// What was refused is tried again from here on.
    pub(super) const fn retries(&mut self) {
        self.retry_at = None;
    }

    /// The load that the program keeps of `id`; none if it cannot be read.
    pub(super) fn load(&mut self, id: WorkerId) -> Option<WorkerLoad> {
        match self.store.load(id) {
            Ok(load) => Some(load),
            Err(error) => {
                self.refused(&error);
                None
            }
        }
    }

    /// Carries out `writes` at once, whatever the plan is. Returns false if the kernel refused one.
    pub(super) fn write_now(&mut self, writes: &[MapWrite]) -> bool {
        let mut all = true;
        for write in writes {
            all &= self.write(write);
        }
        all
    }

    /// Gives the load row of `id` to a worker that has not reported yet.
    pub(super) fn reset_load(&mut self, id: WorkerId, report: Report) {
        self.metrics.count_write(name::WORKER_LOAD);
        if let Err(error) = self.store.reset_load(id, report) {
            self.refused(&error);
        }
    }

    /// Takes a worker's heartbeat over into its load row, past any plan.
    pub(super) fn report_load(&mut self, id: WorkerId, report: Report) {
        self.metrics.count_write(name::WORKER_LOAD);
        if let Err(error) = self.store.report_load(id, report) {
            self.refused(&error);
        }
    }

    /// Gives the load row of `id` back to its heartbeats, of which `report` is the last.
    pub(super) fn restart_load(&mut self, id: WorkerId, report: Report) {
        self.metrics.count_write(name::WORKER_LOAD);
        if let Err(error) = self.store.restart_load(id, report) {
            self.refused(&error);
        }
    }

    /// Takes it that the kernel has removed the ports that are not among `ports`, and may have removed any of the others:
    /// those are written again.
    pub(super) fn forget_ports(&mut self, ports: &Ports) {
        let exists = |ifindex: &u32| ports.0.iter().any(|port| port.ifindex == *ifindex);
        self.actual.ports.retain(|ifindex| !exists(ifindex));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn wants_retry(&self) -> bool {
        self.retry_at.is_some_and(|at| Instant::now() >= at)
    }

    #[cfg(test)]
    pub(super) const fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    fn write(&mut self, write: &MapWrite) -> bool {
        self.metrics.count_write(write.map());
        match self.store.write(write) {
            Ok(()) => {
                self.actual.apply(write);
                true
            }
            Err(error) => {
                self.refused(&error);
                false
            }
        }
    }

    fn refused(&mut self, error: &WriteError) {
        self.metrics.write_errors.inc();
        self.retry_at = Some(Instant::now() + RETRY_WRITES);
        if let Some(suppressed) = self.log.allow() {
            error!(
                error = error as &dyn std::error::Error,
                suppressed, "the kernel refused a map write; tried again each second"
            );
        }
    }
}

/// Whether what follows `write` in a plan relies on it. A function too many harms nobody else.
const fn must_precede_others(write: &MapWrite) -> bool {
    match write {
        MapWrite::AddPort(_)
        | MapWrite::Worker(..)
        | MapWrite::Slot(..)
        | MapWrite::Home(..)
        | MapWrite::VipFilter(..)
        | MapWrite::BlockFilter(..)
        | MapWrite::Generation(_)
        | MapWrite::Settings(_)
        | MapWrite::HomeBound(_)
        | MapWrite::Keys(_)
        | MapWrite::Constants(_)
        | MapWrite::Schema(..)
        | MapWrite::Pktgen(..) => true,
        MapWrite::Function(..)
        | MapWrite::Block(_)
        | MapWrite::Unblock(_)
        | MapWrite::Limit(..)
        | MapWrite::Unlimit(_)
        | MapWrite::Vip(..)
        | MapWrite::RemovePort(_)
        | MapWrite::RemoveFunction(_)
        | MapWrite::RemoveVip(_) => false,
    }
}
