//! The controller driven by hand, for `crate::bench`.

use std::time::{Duration, Instant};

use ebpf_common::ids::{FunctionId, WorkerId};
use tokio::sync::oneshot;

use super::{Controller, Event, Start};
use crate::{
    catalog::Catalog,
    maps::MapStore,
    membership::{
        protocol::Heartbeat,
        server::{ConnectionEvent, ConnectionId, Welcome},
        state::{Identity, JoinError},
    },
};

/// A controller without a task.
pub(crate) struct Bench<S>(Controller<S>);

impl<S: MapStore> Bench<S> {
    pub(crate) fn new(start: Start, store: S) -> Result<Self, JoinError> {
        Controller::new(start, store).map(Self)
    }

    /// Carries out all that there is to do.
    pub(crate) fn settle(&mut self) {
        self.0.take_beats();
        if !self.0.dirty.is_clean() {
            self.0.replan();
        }
        while !self.0.is_idle() {
            self.0.carry_on(Duration::MAX);
        }
    }

    /// Carries out all that there is to do, and what is done a while after it.
    pub(crate) fn rest(&mut self) {
        self.settle();
        self.0.applier.prepare_standby();
        self.settle();
    }

    /// Only what does not wait for tables.
    pub(crate) fn urgent(&mut self) {
        self.0.write_urgent();
    }

    pub(crate) fn hello(
        &mut self,
        connection: ConnectionId,
        identity: Identity,
        reply: oneshot::Sender<Result<Welcome, String>>,
    ) {
        let hello = ConnectionEvent::Hello {
            connection,
            identity,
            reply,
        };
        self.0.handle(Event::Connection(hello));
    }

    pub(crate) fn beat(&mut self, connection: ConnectionId, heartbeat: Heartbeat) {
        let beat = ConnectionEvent::Heartbeat {
            connection,
            heartbeat,
        };
        self.0.handle(Event::Connection(beat));
    }

    pub(crate) fn close(&mut self, connection: ConnectionId) {
        let closed = ConnectionEvent::Closed {
            connection,
            is_silent: false,
        };
        self.0.handle(Event::Connection(closed));
    }

    pub(crate) fn drain(&mut self, id: WorkerId, is_drained: bool) {
        if self.0.membership.set_drained(id, is_drained) {
            self.0.worker_changed(id);
        }
    }

    pub(crate) fn catalog(&mut self, catalog: Catalog) {
        self.0.follow_catalog(catalog);
    }

    pub(crate) fn with_catalog(&mut self, edit: impl FnOnce(&mut Catalog)) {
        if let Some(catalog) = &mut self.0.catalog {
            edit(catalog);
        }
    }

    pub(crate) fn touch(&mut self, function: FunctionId) {
        self.0.functions.push(function);
    }

    pub(crate) fn look_at_loads(&mut self) {
        self.0.look_at_loads(Instant::now());
    }
}
