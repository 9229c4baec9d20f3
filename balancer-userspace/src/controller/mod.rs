//! The one task that owns the control plane's state: events in, map writes out.
//!
//! Event-driven: a worker's death is in the kernel as soon as its connection is closed. Long plans
//! (a new home table is 65,537 entries) are carried out in slices of [`SLICE`], and events are looked
//! at in between; a plan that an event overtakes is dropped and made anew from what was written.

mod applier;
mod commands;
mod connections;
mod events;
mod outputs;
mod views;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use applier::Applier;
use connections::Connections;
use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits::MAX_WARM,
    maps::WorkerState,
};
use tokio::sync::watch;
use tracing::{info, warn};

pub(crate) use commands::{Command, CommandError};
use events::Event;
pub(crate) use events::{Events, PortsEvent};

use crate::{
    api::types::InterfaceStatus,
    catalog::Catalog,
    config::{Config, StaticWorker},
    loads::{Loads, Report},
    maps::{MapStore, TableRows},
    membership::{
        persist::Persisted,
        protocol::Heartbeat,
        server::{ConnectionEvent, ConnectionId, Shared, Welcome},
        state::{Identity, JoinError, Membership},
    },
    metrics::Metrics,
    policy::{self, maglev},
    ports::Ports,
    reconcile::{self, tables::ActualTables},
    slots::Slots,
};

/// Longest that events wait for map writes.
const SLICE: Duration = Duration::from_millis(1);
/// When writes that the kernel refused are tried again.
const RETRY_WRITES: Duration = Duration::from_secs(1);

/// What the controller starts from.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) config: Config,
    /// What the maps hold.
    pub(crate) actual: ActualTables,
    /// What the state file holds.
    pub(crate) persisted: Option<Persisted>,
    pub(crate) ports: PortsEvent,
    /// None if there is a store that has not answered yet.
    pub(crate) catalog: Option<Catalog>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) program: ProgramInfo,
    pub(crate) table_rows: TableRows,
}

/// What is told of the program.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProgramInfo {
    pub(crate) id: u32,
    pub(crate) tag: String,
    pub(crate) adopted: bool,
}

#[derive(Debug)]
pub(crate) struct Controller<S> {
    config: Config,
    state_file: PathBuf,
    program: ProgramInfo,
    started: Instant,
    metrics: Arc<Metrics>,

    membership: Membership,
    /// As the state file has it.
    saved: Membership,
    saved_slots_version: u64,
    loads: Loads,
    catalog: Option<Catalog>,
    ports: Ports,
    interfaces: Vec<InterfaceStatus>,
    slots: Slots,
    shared: watch::Sender<Arc<Shared>>,
    connections: Connections,
    /// Workers of an earlier run that have not connected again, and until when they count as alive.
    grace: Option<(Instant, Vec<WorkerId>)>,

    home: Vec<WorkerId>,
    home_workers: Vec<(String, WorkerId)>,
    applier: Applier<S>,
    is_dirty: bool,
}

impl<S: MapStore> Controller<S> {
    /// Takes up what the maps and the state file hold.
    pub(crate) fn new(start: Start, store: S) -> Result<Self, JoinError> {
        let slots_version = start
            .persisted
            .as_ref()
            .map_or(0, |state| state.slots_version);
        let mut membership = start.persisted.map(Persisted::restore).unwrap_or_default();
        let saved = membership.clone();
        membership.set_static(start.config.workers.iter().map(static_identity).collect())?;

        let mut loads = Loads::default();
        for (id, entry) in &start.actual.functions {
            let warm = entry.warm.iter().take(usize::from(entry.warm_len));
            for worker in warm {
                if membership.get(WorkerId(*worker)).is_some() {
                    loads.restore_warm(WorkerId(*worker), FunctionId(*id));
                }
            }
        }
        let grace = start.config.membership.as_ref().and_then(|terms| {
            let waiting: Vec<WorkerId> = membership
                .iter()
                .filter(|(_, member)| {
                    member.is_alive && member.source == crate::membership::state::Source::Heartbeat
                })
                .map(|(id, _)| id)
                .collect();
            let until = Instant::now() + Duration::from_millis(terms.restart_grace_ms.into());
            (!waiting.is_empty()).then_some((until, waiting))
        });
        // Without heartbeats nobody will say that a worker of an earlier run is alive.
        if start.config.membership.is_none() {
            suspend_absent(&mut membership);
        }
        let mut controller = Self {
            state_file: start.config.state_file(),
            config: start.config,
            program: start.program,
            started: Instant::now(),
            saved_slots_version: slots_version,
            slots: Slots::assign(&membership),
            saved,
            membership,
            loads,
            catalog: start.catalog,
            ports: start.ports.ports,
            interfaces: start.ports.interfaces,
            shared: watch::Sender::new(Arc::new(Shared {
                slots_version,
                ..Shared::default()
            })),
            connections: Connections::default(),
            grace,
            home: Vec::new(),
            home_workers: Vec::new(),
            applier: Applier::new(store, start.actual, Arc::clone(&start.metrics)),
            metrics: start.metrics,
            is_dirty: true,
        };
        controller.complete_config(start.table_rows);
        controller.reset_static_loads();
        Ok(controller)
    }

    /// Runs until `stop` becomes true, or nobody is left to say so.
    pub(crate) async fn run(mut self, mut events: Events, mut stop: watch::Receiver<bool>) {
        self.refresh_home();
        loop {
            while let Some(event) = events.ready() {
                self.handle(event);
            }
            if self.is_dirty {
                self.replan();
            }
            if *stop.borrow() {
                break;
            }
            if self.applier.is_idle() {
                let deadline = self.deadline();
                tokio::select! {
                    event = events.next(deadline) => if let Some(event) = event {
                        self.handle(event);
                    },
                    stopped = stop.wait_for(|stop| *stop) => if stopped.is_err() {
                        break;
                    },
                }
                self.end_grace();
                if self.applier.wants_retry() {
                    self.is_dirty = true;
                }
            } else {
                self.applier.apply(SLICE);
                tokio::task::yield_now().await;
            }
        }
        self.save();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connection(ConnectionEvent::Hello {
                connection,
                identity,
                reply,
            }) => {
                let answer = self.join(connection, identity);
                // The connection was closed in the meantime; its Closed event follows.
                drop(reply.send(answer));
            }
            Event::Connection(ConnectionEvent::Heartbeat {
                connection,
                heartbeat,
            }) => self.heartbeat(connection, &heartbeat),
            Event::Connection(ConnectionEvent::Closed { connection }) => self.closed(connection),
            Event::Catalog(catalog) => {
                self.catalog = Some(catalog);
                self.is_dirty = true;
            }
            Event::Ports(event) => {
                // The kernel has taken the entries of interfaces that went away out of PORTS itself.
                self.applier.forget_ports(&event.ports);
                self.ports = event.ports;
                self.interfaces = event.interfaces;
                self.is_dirty = true;
            }
            Event::Command(command) => {
                // Whoever asks is told of a state whose plan has begun.
                if self.is_dirty {
                    self.replan();
                }
                self.command(command);
            }
        }
    }

    fn join(&mut self, connection: ConnectionId, identity: Identity) -> Result<Welcome, String> {
        if self.ports.reaching(identity.address).is_none() {
            return Err(format!(
                "{} is in no subnet of the balancer's interfaces ({})",
                identity.address,
                self.config
                    .interfaces
                    .iter()
                    .map(|interface| interface.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        let name = identity.name.clone();
        let is_known = self.membership.named(&name).is_some();
        let id = self
            .membership
            .join(identity)
            .map_err(|error| error.to_string())?;
        if !is_known {
            // Another worker may have had this id.
            self.applier.reset_load(id, Report::default());
        }
        if let Some((_, waiting)) = &mut self.grace {
            waiting.retain(|waiting| *waiting != id);
        }
        let superseded = self.connections.insert(connection, id);
        self.is_dirty = true;
        self.metrics.joins.inc();
        info!(worker = name, id = id.0, "worker joined");
        Ok(Welcome {
            worker_id: id.0,
            shared: self.shared.subscribe(),
            superseded,
        })
    }

    fn heartbeat(&mut self, connection: ConnectionId, heartbeat: &Heartbeat) {
        // A connection that was superseded may have one more in the queue.
        let Some(id) = self.connections.worker(connection) else {
            return;
        };
        self.metrics.heartbeats.inc();
        let is_crowded = self.membership.len() > MAX_WARM;
        let step_before = is_crowded.then(|| policy::load_step(&self.loads, id));
        let change = self.loads.record(id, heartbeat);
        let is_step = step_before.is_some_and(|step| step != policy::load_step(&self.loads, id));
        if self.membership.set_leaving(id, heartbeat.draining) {
            info!(id = id.0, draining = heartbeat.draining, "worker changed");
            self.is_dirty = true;
        }
        self.is_dirty |= change.warm || is_step;
        if change.report
            && let Some(report) = self.loads.get(id).and_then(|load| load.report)
        {
            // Many a second for each worker, and nothing depends on it: no plan.
            self.applier.report_load(id, report);
            if let Some(member) = self.membership.get(id) {
                let in_flight = self
                    .metrics
                    .in_flight
                    .with_label_values(&[&member.identity.name]);
                in_flight.set(report.in_flight.into());
            }
        }
    }

    fn closed(&mut self, connection: ConnectionId) {
        if let Some(id) = self.connections.remove(connection) {
            self.suspend(id, "its connection was closed");
        }
    }

    fn suspend(&mut self, id: WorkerId, why: &str) {
        self.loads.forget(id);
        if self.membership.suspend(id) {
            if let Some(member) = self.membership.get(id) {
                let name = &member.identity.name;
                warn!(worker = name, id = id.0, why, "worker is down");
                self.metrics.forget_worker(name);
            }
            self.metrics.losses.inc();
            self.is_dirty = true;
        }
    }

    fn end_grace(&mut self) {
        if self
            .grace
            .as_ref()
            .is_some_and(|(until, _)| Instant::now() >= *until)
            && let Some((_, waiting)) = self.grace.take()
        {
            for id in waiting {
                self.suspend(
                    id,
                    "it did not connect again after the control plane's restart",
                );
            }
        }
    }

    /// Makes and begins the plan for the state as it is now.
    fn replan(&mut self) {
        let started = Instant::now();
        self.is_dirty = false;
        // What saves packets first: the new home table takes milliseconds to make.
        let rows = policy::worker_rows(&self.membership, &self.ports);
        self.applier
            .write_now(&reconcile::urgent(&rows, self.applier.actual()));
        self.slots = Slots::assign(&self.membership);
        self.share();
        self.refresh_home();
        let desired = policy::desired(&policy::Inputs {
            vips: &self.config.vips,
            membership: &self.membership,
            catalog: self.catalog.as_ref(),
            loads: &self.loads,
            ports: &self.ports,
            slots: &self.slots,
            home: &self.home,
        });
        self.applier.plan(&desired);
        self.applier.apply(SLICE);
        self.save();
        self.publish();
        self.metrics
            .plan_seconds
            .observe(started.elapsed().as_secs_f64());
    }

    fn refresh_home(&mut self) {
        let workers = policy::home_workers(&self.membership, &self.ports);
        let is_same = self.home_workers.len() == workers.len()
            && self
                .home_workers
                .iter()
                .map(|(name, id)| (name.as_str(), *id))
                .eq(workers.iter().copied());
        if !is_same || self.home.is_empty() {
            self.home = maglev::table(&workers);
            self.home_workers = workers
                .into_iter()
                .map(|(name, id)| (name.to_owned(), id))
                .collect();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let grace = self.grace.as_ref().map(|(until, _)| *until);
        let retry = self.applier.retry_at();
        grace.into_iter().chain(retry).min()
    }

    fn workers_up(&self) -> usize {
        let up = self
            .membership
            .iter()
            .filter(|(_, member)| member.state() == WorkerState::Up);
        up.count()
    }
}

fn static_identity(worker: &StaticWorker) -> Identity {
    Identity {
        name: worker.name.clone(),
        address: worker.address,
        mac: worker.mac,
        interface: worker.interface.clone(),
        slots: Vec::new(),
        db_url: None,
    }
}

fn suspend_absent(membership: &mut Membership) {
    let absent: Vec<WorkerId> = membership
        .iter()
        .filter(|(_, member)| member.source != crate::membership::state::Source::Static)
        .map(|(id, _)| id)
        .collect();
    for id in absent {
        membership.suspend(id);
    }
}

#[cfg(test)]
mod tests;
