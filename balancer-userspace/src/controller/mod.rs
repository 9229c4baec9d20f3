//! The one task that owns the control plane's state: events in, map writes out.
//!
//! Event-driven: a worker's death is in the kernel as soon as its connection is closed. Long plans
//! (a new home table is 65,537 entries) are carried out in slices of [`SLICE`], and events are looked
//! at in between; a plan that an event overtakes is dropped and made anew from what was written.

mod applier;
mod beats;
mod bench;
mod commands;
mod connections;
mod dirty;
mod events;
mod grace;
mod keys;
mod orders;
mod outputs;
mod plan;
mod policies;
mod presumed;
mod reports;
mod schemas;
mod state_file;
mod views;
mod workers;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use applier::Applier;
use beats::Beats;
use connections::Connections;
use dirty::{Dirty, DirtyFunctions};
use ebpf_common::ids::{FunctionId, WorkerId};
use tokio::sync::watch;

pub(crate) use bench::Bench;
pub(crate) use commands::{Command, CommandError};
use events::Event;
pub(crate) use events::{Events, PortsEvent};
use grace::Grace;
use reports::Reports;
use schemas::SchemaRows;
use state_file::StateFile;
use workers::{awaited, suspend_absent, warm_before};

use crate::{
    api::types::InterfaceStatus,
    catalog::Catalog,
    config::{Config, PolicyFile, StaticWorker},
    key_secret::KeySecret,
    loads::Loads,
    maps::{MapStore, TableRows},
    membership::{
        persist::{self, Persisted},
        server::{ConnectionEvent, Shared},
        state::{Identity, JoinError, Membership},
    },
    metrics::Metrics,
    policy::{Homes, PoolNumbers, Rules, orders::Orders},
    ports::Ports,
    reconcile::tables::ActualTables,
    slots::Slots,
};

/// Longest that events wait for map writes.
const SLICE: Duration = Duration::from_millis(1);
/// How long after a change of generation no packet looks at the copies that were live before: they take microseconds.
const STANDBY_AFTER: Duration = Duration::from_millis(20);
/// How many functions go between two looks at the clock.
const FUNCTIONS_A_LOOK: usize = 32;
/// How often the loads that the program keeps are looked at, for the bound on homes and for people.
const LOOK_AT_LOADS: Duration = Duration::from_millis(100);
/// How long the news of a plan waits for rows of functions.
const TELL_WITHIN: Duration = Duration::from_millis(5);
/// How long the state file waits for further changes.
const SAVE_AFTER: Duration = Duration::from_millis(10);
/// When a state file that could not be written is tried again.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(1);
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
    /// None if keys are this control plane's own.
    pub(crate) key_secret: Option<KeySecret>,
    /// The policy in force, and its revision; 0 is that of the configuration.
    pub(crate) policy: PolicyFile,
    pub(crate) revision: u64,
}

/// What is told of the program.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProgramInfo {
    pub(crate) id: u32,
    pub(crate) tag: String,
    pub(crate) adopted: bool,
}

/// What follows from a plan beside map writes.
#[derive(Debug, Clone, Copy)]
struct News {
    /// When the plan was made.
    since: Instant,
    /// Whether the slots may have other owners.
    slots: bool,
}

#[derive(Debug)]
pub(crate) struct Controller<S> {
    config: Config,
    state_file: StateFile,
    program: ProgramInfo,
    started: Instant,
    metrics: Arc<Metrics>,

    membership: Membership,
    /// What the state file was written of.
    saved: Option<(u64, u64, u64, PoolNumbers, Orders)>,
    /// When it is written again.
    save_at: Option<Instant>,
    loads: Loads,
    catalog: Option<Catalog>,
    schemas: SchemaRows,
    ports: Ports,
    interfaces: Vec<InterfaceStatus>,
    slots: Slots,
    shared: watch::Sender<Arc<Shared>>,
    connections: Connections,
    beats: Beats,
    grace: Grace,

    policy: PolicyFile,
    revision: u64,
    pools: PoolNumbers,
    /// What operators want warm, and until when.
    orders: Orders,
    /// Whether workers have said something new of it since the gauges were set.
    orders_stale: bool,
    rules: Arc<Rules>,
    homes: Homes,
    applier: Applier<S>,
    dirty: Dirty,
    /// What the plan that is being carried out is about.
    in_plan: Dirty,
    /// What others are told once the tables are written.
    untold: Option<News>,
    functions: DirtyFunctions,
    /// Functions whose rows the kernel refused.
    refused: Vec<FunctionId>,
    keys_at: Option<Instant>,
    key_secret: Option<KeySecret>,
    keys_made_s: u64,
    loads_at: Instant,
    /// Whose LOAD packets come.
    reports: Reports,
    /// Workers without a connection that count as alive by their LOAD packets.
    presumed: BTreeSet<WorkerId>,
    /// When the standby copies are made the same as the live ones.
    standby_at: Option<Instant>,
}

/// What the policy looks at, borrowed from the controller field by field so that others can be changed meanwhile.
macro_rules! inputs {
    ($controller:expr) => {
        policy::Inputs {
            rules: &$controller.rules,
            membership: &$controller.membership,
            catalog: $controller.catalog.as_ref(),
            loads: &$controller.loads,
            ports: &$controller.ports,
            schemas: &$controller.schemas.rows,
            fib: $controller.config.fib,
        }
    };
}
use inputs;

impl<S: MapStore> Controller<S> {
    /// Takes up what the maps and the state file hold.
    pub(crate) fn new(start: Start, store: S) -> Result<Self, JoinError> {
        // Whom the ids in the maps meant is not known any more.
        let is_orphaned = start.program.adopted && start.persisted.is_none();
        let before = start.persisted.unwrap_or_default();
        let mut membership = persist::restore(before.workers);
        membership.set_static(start.config.workers.iter().map(static_identity).collect())?;
        let loads = warm_before(&start.actual, &membership);
        let mut grace = Grace::default();
        match &start.config.membership {
            Some(terms) => {
                let length = Duration::from_millis(terms.restart_grace_ms.into());
                grace = Grace::new(awaited(&membership), length);
            }
            // Nobody will say that a worker of an earlier run is alive.
            None => suspend_absent(&mut membership),
        }
        let mut controller = Self {
            state_file: StateFile::new(start.config.state_file()),
            save_at: None,
            untold: None,
            config: start.config,
            program: start.program,
            started: Instant::now(),
            slots: Slots::assign(&membership),
            saved: None,
            membership,
            loads,
            catalog: start.catalog,
            schemas: SchemaRows::held(&start.actual.schemas),
            ports: start.ports.ports,
            interfaces: start.ports.interfaces,
            shared: watch::Sender::new(Arc::new(Shared {
                slots_version: before.slots_version,
                ..Shared::default()
            })),
            connections: Connections::default(),
            beats: Beats::default(),
            grace,
            policy: PolicyFile::default(),
            revision: 0,
            pools: before.pools,
            orders: before.orders,
            orders_stale: false,
            rules: Arc::default(),
            homes: Homes::default(),
            applier: Applier::new(store, start.actual, Arc::clone(&start.metrics)),
            metrics: start.metrics,
            dirty: Dirty::everything(),
            in_plan: Dirty::default(),
            functions: DirtyFunctions::default(),
            refused: Vec::new(),
            keys_at: None,
            key_secret: start.key_secret,
            keys_made_s: before.keys_made_s,
            loads_at: Instant::now(),
            reports: Reports::default(),
            presumed: BTreeSet::new(),
            standby_at: None,
        };
        controller.complete_config(start.table_rows, is_orphaned);
        controller.schedule_keys();
        controller.set_policy(start.policy, start.revision);
        controller.follow_schemas(false);
        controller.all_functions();
        controller.reset_static_loads();
        // A scrape may come before the first plan.
        controller.publish();
        Ok(controller)
    }

    /// Runs until `stop` becomes true, or nobody is left to say so.
    pub(crate) async fn run(mut self, mut events: Events, mut stop: watch::Receiver<bool>) {
        self.grace.begin(Instant::now());
        loop {
            while let Some(event) = events.ready() {
                self.handle(event);
            }
            self.take_beats();
            if !self.dirty.is_clean() {
                self.replan();
            }
            if *stop.borrow() {
                break;
            }
            if self.is_idle() {
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
                self.tend();
            } else {
                self.carry_on(SLICE);
                self.save_if_due();
                tokio::task::yield_now().await;
            }
        }
        self.save();
        self.state_file.finish();
    }

    fn handle(&mut self, event: Event) {
        let is_beat = matches!(event, Event::Connection(ConnectionEvent::Heartbeat { .. }));
        if !is_beat {
            // They came before it.
            self.take_beats();
        }
        match event {
            Event::Connection(ConnectionEvent::Heartbeat {
                connection,
                heartbeat,
            }) => self.note_beat(connection, heartbeat),
            Event::Connection(ConnectionEvent::Hello {
                connection,
                identity,
                reply,
            }) => {
                let answer = self.join(connection, identity);
                // The connection was closed in the meantime; its Closed event follows.
                drop(reply.send(answer));
            }
            Event::Connection(ConnectionEvent::Closed {
                connection,
                is_silent,
            }) => self.closed(connection, is_silent),
            Event::Catalog(catalog) => self.follow_catalog(catalog),
            Event::Ports(event) => {
                // The kernel has taken the entries of interfaces that went away out of PORTS itself.
                self.applier.forget_ports(&event.ports);
                self.ports = event.ports;
                self.interfaces = event.interfaces;
                self.dirty.all_workers = true;
                self.dirty.rest = true;
                // The LOAD address may be that of an interface.
                self.look_at_load_address();
                self.refresh_rules();
                // A worker that is reached now, or not any more, is in warm sets or not.
                let warm: Vec<FunctionId> = self.loads.functions().collect();
                self.functions.extend(warm);
            }
            Event::Command(command) => {
                // Whoever asks is told of a state whose plan has begun.
                if !self.dirty.is_clean() {
                    self.replan();
                }
                self.command(command);
            }
        }
    }

    fn follow_catalog(&mut self, catalog: Catalog) {
        let is_settled = self.functions.len() == 0 && self.refused.is_empty();
        match &self.catalog {
            None => {
                self.catalog = Some(catalog);
                self.all_functions();
            }
            Some(before) => {
                let gone = before.functions.keys();
                let gone = gone.filter(|id| !catalog.functions.contains_key(id));
                let new = catalog.functions.iter();
                let new = new.filter(|(id, function)| before.functions.get(id) != Some(function));
                self.functions.extend(gone.copied());
                self.functions.extend(new.map(|(id, _)| *id));
                self.catalog = Some(catalog);
            }
        }
        self.follow_schemas(is_settled);
        self.drop_orders_of_the_gone();
        self.share_keep_warm();
    }

    /// What is done by the clock.
    fn tend(&mut self) {
        if self.applier.wants_retry() {
            self.applier.retries();
            self.dirty.rest = true;
            let refused = std::mem::take(&mut self.refused);
            self.functions.extend(refused);
        }
        self.rotate_keys_if_due();
        self.expire_orders();
        self.save_if_due();
        if self.standby_at.is_some_and(|at| Instant::now() >= at) {
            self.standby_at = None;
            self.applier.prepare_standby();
        }
        if Instant::now() >= self.loads_at {
            self.loads_at = Instant::now() + LOOK_AT_LOADS;
            self.look_at_loads(Instant::now());
            self.publish_orders_if_stale();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let retry = self.applier.retry_at();
        // Who drains takes no new work, but its sessions' requests.
        let mut members = self.membership.iter();
        let has_loads = members.any(|(_, member)| member.is_alive);
        let loads = has_loads.then_some(self.loads_at);
        let times = [
            self.grace.until(),
            retry,
            self.keys_at,
            loads,
            self.standby_at,
            self.save_at,
            self.orders_end_at(),
        ];
        times.into_iter().flatten().min()
    }
}

fn static_identity(worker: &StaticWorker) -> Identity {
    Identity {
        name: worker.name.clone(),
        address: worker.address,
        mac: worker.mac,
        address6: worker.address6,
        own_id: None,
        interface: worker.interface.clone(),
        slots: Vec::new(),
        db_url: None,
    }
}

#[cfg(test)]
mod tests;
