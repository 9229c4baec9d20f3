//! What follows from a change: which rows are written in which order, and who is told when they are.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits::MAX_WORKERS,
};

use super::{
    Controller, FUNCTIONS_A_LOOK, News, SAVE_AFTER, SLICE, STANDBY_AFTER, TELL_WITHIN,
    dirty::Dirty, inputs,
};
use crate::{
    maps::MapStore,
    policy,
    reconcile::{self, tables::DesiredTables},
    slots::Slots,
};

impl<S: MapStore> Controller<S> {
    /// Looks at every function, if it is known which there are.
    pub(super) fn all_functions(&mut self) {
        if let Some(catalog) = &self.catalog {
            self.functions.extend(catalog.functions.keys().copied());
            let held = self.applier.actual().functions.keys();
            self.functions.extend(held.map(|id| FunctionId(*id)));
        }
    }

    /// Makes and begins the plan for what has changed.
    pub(super) fn replan(&mut self) {
        let started = Instant::now();
        let mut dirty = std::mem::take(&mut self.in_plan);
        dirty.merge(std::mem::take(&mut self.dirty));
        let inputs = inputs!(self);
        let ids: Vec<WorkerId> = if dirty.all_workers {
            (0..MAX_WORKERS as u16).map(WorkerId).collect()
        } else {
            dirty.workers.iter().copied().collect()
        };
        // What saves packets first: new home tables take milliseconds to make.
        let rows = ids.iter().map(|id| (*id, inputs.worker_row(*id))).collect();
        self.applier
            .write_now(&reconcile::urgent(&rows, self.applier.actual()));
        for id in &ids {
            self.homes.set(*id, inputs.taker(*id), inputs.rules);
        }
        self.homes.refresh(&self.rules);
        if dirty.slots {
            self.slots = Slots::assign(&self.membership);
        }
        let desired = DesiredTables {
            rules: dirty.rules.then(|| Arc::clone(&self.rules)),
            workers: rows,
            functions: None,
            slots: Arc::clone(&self.slots.owners),
            homes: self.homes.tables().to_vec(),
            ports: self.ports.0.iter().map(|port| port.ifindex).collect(),
        };
        self.applier.plan(&desired);
        self.in_plan = dirty;
        let news = self.untold.get_or_insert(News {
            since: started,
            slots: false,
        });
        news.slots |= self.in_plan.slots;
        self.carry_on(SLICE);
        self.metrics
            .plan_seconds
            .observe(started.elapsed().as_secs_f64());
    }

    /// The part of the next plan that does not wait for tables: workers that went down.
    pub(super) fn write_urgent(&mut self) {
        let inputs = inputs!(self);
        let ids = self.dirty.workers.iter();
        let rows = ids.map(|id| (*id, inputs.worker_row(*id))).collect();
        self.applier
            .write_now(&reconcile::urgent(&rows, self.applier.actual()));
    }

    /// Carries the plan on for about `slice`, and after it the rows of functions.
    pub(super) fn carry_on(&mut self, slice: Duration) {
        let started = Instant::now();
        let generation = self.applier.actual().config.generation;
        self.applier.apply(slice);
        if generation != self.applier.actual().config.generation {
            self.standby_at = Some(Instant::now() + STANDBY_AFTER);
        }
        if !self.applier.is_idle() {
            return;
        }
        if self.applier.retry_at().is_none() {
            self.in_plan = Dirty::default();
        }
        self.write_functions(started, slice);
        if let Some(news) = self.untold
            && (self.is_idle() || news.since.elapsed() >= TELL_WITHIN)
        {
            self.untold = None;
            self.tell(news);
        }
    }

    /// What others are told once the tables are written.
    pub(super) fn tell(&mut self, news: News) {
        let told = self.shared.borrow().load.map(|load| load.address);
        if news.slots || told != self.load_address() {
            self.share();
        }
        self.share_keep_warm();
        self.publish();
        let soon = Instant::now() + SAVE_AFTER;
        self.save_at = Some(self.save_at.map_or(soon, |at| at.min(soon)));
    }

    pub(super) fn write_functions(&mut self, started: Instant, slice: Duration) {
        let Some(catalog) = &self.catalog else {
            return;
        };
        if !self.schemas.write(&mut self.applier) {
            let waiting = std::iter::from_fn(|| self.functions.pop());
            self.refused.extend(waiting);
            return;
        }
        let inputs = inputs!(self);
        while let Some(id) = self.functions.pop() {
            if !self.applier.function(id, inputs.function_row(id, catalog)) {
                self.refused.push(id);
            }
            if self.functions.len().is_multiple_of(FUNCTIONS_A_LOOK) && started.elapsed() >= slice {
                break;
            }
        }
    }

    /// Whether there is nothing to write.
    pub(super) fn is_idle(&self) -> bool {
        self.applier.is_idle() && (self.functions.len() == 0 || self.catalog.is_none())
    }

    /// Writes still to do, as far as it is known.
    pub(super) fn pending(&self) -> usize {
        let functions = if self.catalog.is_some() {
            self.functions.len()
        } else {
            0
        };
        self.applier.pending() + functions
    }
}
