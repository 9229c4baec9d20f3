//! What workers say of themselves, and what becomes of one that says nothing any more.

use std::time::Instant;

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits::MAX_WARM,
    maps::WorkerState,
};
use tracing::{info, warn};

use super::Controller;
use crate::{
    loads::{Loads, Report},
    maps::MapStore,
    membership::{
        protocol::Heartbeat,
        server::{ConnectionId, Welcome},
        state::{Identity, Member, Membership, Source},
    },
    policy,
    reconcile::tables::ActualTables,
};

impl<S: MapStore> Controller<S> {
    pub(super) fn join(
        &mut self,
        connection: ConnectionId,
        identity: Identity,
    ) -> Result<Welcome, String> {
        if !self.config.fib && self.ports.reaching(identity.address).is_none() {
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
        if self.key_secret.is_some() && identity.own_id.is_none() {
            return Err(
                "this control plane shares its keys (`[keys] secret_file`), so a worker needs the same id at all that do: set \
                 `id` in worker.toml"
                    .to_owned(),
            );
        }
        let name = identity.name.clone();
        let before = self.membership.named(&name);
        let id_before = before.map(|(id, _)| id);
        // Connections that came while this process started are served at once, in any order, and whoever lost patience
        // has connected again since: the earlier one is closed already, and its end is not the worker's.
        if before.is_some_and(|(id, _)| self.connections.has_later(connection, id)) {
            return Err("the worker has connected again since".to_owned());
        }
        // Two workers may claim the same slots, so the claims of each matter to all.
        let has_slots = |identity: &Identity| !identity.slots.is_empty();
        self.dirty.slots |=
            has_slots(&identity) || before.is_some_and(|(_, member)| has_slots(&member.identity));
        let id = self
            .membership
            .join(identity)
            .map_err(|error| error.to_string())?;
        if let Some(other) = id_before.filter(|before| *before != id) {
            self.left_behind(other);
        }
        if id_before == Some(id) {
            self.restart_load(id);
        } else {
            // Another worker may have had this id, and slots.
            self.applier.reset_load(id, Report::default());
            self.dirty.slots |= self.slots.owners.contains(&id);
        }
        self.grace.connected(id);
        self.presume_no_more(id);
        let superseded = self.connections.insert(connection, id);
        self.worker_changed(id);
        self.metrics.joins.inc();
        info!(worker = name, id = id.0, "worker joined");
        Ok(Welcome {
            worker_id: id.0,
            shared: self.shared.subscribe(),
            superseded,
        })
    }

    /// The worker of `id` has another one now, and nobody this one.
    fn left_behind(&mut self, id: WorkerId) {
        self.grace.connected(id);
        self.presume_no_more(id);
        self.connections.supersede(id);
        // While it is known what is warm there.
        self.worker_changed(id);
        let warm = self.loads.forget(id);
        self.functions.extend(warm);
        self.reports.forget(id);
    }

    /// Keeps a heartbeat until [`Self::take_beats`].
    pub(super) fn note_beat(&mut self, connection: ConnectionId, heartbeat: Heartbeat) {
        self.metrics.heartbeats.inc();
        if self.beats.push(connection, heartbeat) {
            self.metrics.heartbeats_overtaken.inc();
        }
    }

    /// Takes in what workers have said last.
    pub(super) fn take_beats(&mut self) {
        for (connection, heartbeat) in self.beats.take() {
            self.heartbeat(connection, &heartbeat);
        }
    }

    fn heartbeat(&mut self, connection: ConnectionId, heartbeat: &Heartbeat) {
        // A connection that was superseded may have one more in the queue.
        let Some(id) = self.connections.worker(connection) else {
            return;
        };
        let step_before = policy::load_step(&self.loads, id);
        let change = self.loads.record(id, heartbeat);
        if step_before != policy::load_step(&self.loads, id) {
            self.load_step_changed(id);
        }
        if self.membership.set_leaving(id, heartbeat.draining) {
            info!(id = id.0, draining = heartbeat.draining, "worker changed");
            self.worker_changed(id);
        }
        self.functions.extend(change.warm);
        self.orders_stale |= change.kept;
        if change.report
            && let Some(report) = self.loads.get(id).and_then(|load| load.report)
        {
            // Many a second for each worker, and nothing depends on it: no plan.
            self.applier.report_load(id, report);
            self.publish_load(id, report);
        }
    }

    pub(super) fn closed(&mut self, connection: ConnectionId, is_silent: bool) {
        let Some(id) = self.connections.remove(connection) else {
            return;
        };
        if is_silent {
            self.lose(id, "nothing was heard of it within its lease");
        } else {
            self.suspend(id, "its connection was closed");
        }
    }

    pub(super) fn suspend(&mut self, id: WorkerId, why: &str) {
        let is_news = self.membership.suspend(id);
        if is_news {
            // At once: until then packets go to where nobody answers.
            self.worker_changed(id);
            self.write_urgent();
        }
        self.presume_no_more(id);
        self.reports.forget(id);
        let warm = self.loads.forget(id);
        self.functions.extend(warm);
        if is_news {
            if let Some(member) = self.membership.get(id) {
                let name = &member.identity.name;
                warn!(worker = name, id = id.0, why, "worker is down");
                self.metrics.forget_worker(name);
            }
            self.metrics.losses.inc();
        }
    }

    pub(super) fn end_grace(&mut self) {
        for id in self.grace.end(Instant::now()) {
            self.lose(
                id,
                "it did not connect again after the control plane's restart",
            );
        }
    }

    /// Everything that follows from whether and how a worker takes work.
    pub(super) fn worker_changed(&mut self, id: WorkerId) {
        self.dirty.workers.insert(id);
        let member = self.membership.get(id);
        self.dirty.slots |= member.is_some_and(|member| !member.identity.slots.is_empty());
        self.functions
            .extend(self.loads.warm_of(id).iter().copied());
    }

    /// A worker is busier, or less: that matters to functions with more warm workers than places for them.
    pub(super) fn load_step_changed(&mut self, id: WorkerId) {
        let is_crowded = |id: &FunctionId| self.loads.warm_on(*id).len() > MAX_WARM;
        let functions = self.loads.warm_of(id).iter().copied();
        self.functions.extend(functions.filter(is_crowded));
    }

    pub(super) fn publish_load(&self, id: WorkerId, report: Report) {
        if let Some(member) = self.membership.get(id) {
            let name = member.identity.name.as_str();
            let gauge = self.metrics.in_flight.with_label_values(&[name]);
            gauge.set(report.in_flight.into());
        }
    }

    pub(super) fn workers_up(&self) -> usize {
        let up = self
            .membership
            .iter()
            .filter(|(_, member)| member.state() == WorkerState::Up);
        up.count()
    }
}

/// Workers that only heartbeats would show to be alive, where nobody sends any.
pub(super) fn suspend_absent(membership: &mut Membership) {
    let absent: Vec<WorkerId> = membership
        .iter()
        .filter(|(_, member)| member.source != Source::Static)
        .map(|(id, _)| id)
        .collect();
    for id in absent {
        membership.suspend(id);
    }
}

/// The workers of an earlier run that may connect again.
pub(super) fn awaited(membership: &Membership) -> Vec<WorkerId> {
    let is_awaited = |member: &Member| member.is_alive && member.source == Source::Heartbeat;
    membership
        .iter()
        .filter(|(_, member)| is_awaited(member))
        .map(|(id, _)| id)
        .collect()
}

/// What was warm when the tables were written, until its workers say what is.
pub(super) fn warm_before(actual: &ActualTables, membership: &Membership) -> Loads {
    let mut loads = Loads::default();
    for (function, entry) in &actual.functions {
        let workers = entry.warm.iter().take(usize::from(entry.warm_len));
        for worker in workers.map(|worker| WorkerId(*worker)) {
            if membership.get(worker).is_some() {
                loads.restore_warm(worker, FunctionId(*function));
            }
        }
    }
    loads
}
