//! Where the controller's events come from, and in which order they are taken.

use std::time::Instant;

use tokio::{sync::mpsc, time::timeout_at};

use super::Command;
use crate::{
    api::types::InterfaceStatus, catalog::Catalog, membership::server::ConnectionEvent,
    ports::Ports,
};

/// Our interfaces as they are now, and where the program is attached.
#[derive(Debug, Clone, Default)]
pub(crate) struct PortsEvent {
    pub(crate) ports: Ports,
    pub(crate) interfaces: Vec<InterfaceStatus>,
}

/// Where events come from. All but connections may be closed from the start.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) connections: mpsc::Receiver<ConnectionEvent>,
    pub(crate) catalogs: mpsc::Receiver<Catalog>,
    pub(crate) ports: mpsc::Receiver<PortsEvent>,
    pub(crate) commands: mpsc::Receiver<Command>,
}

/// Anything that happens to the controller.
#[derive(Debug)]
pub(super) enum Event {
    Connection(ConnectionEvent),
    Catalog(Catalog),
    Ports(PortsEvent),
    Command(Command),
}

impl Events {
    /// An event that is there already.
    pub(super) fn ready(&mut self) -> Option<Event> {
        // Connections first: they carry deaths.
        if let Ok(event) = self.connections.try_recv() {
            return Some(Event::Connection(event));
        }
        if let Ok(event) = self.ports.try_recv() {
            return Some(Event::Ports(event));
        }
        if let Ok(command) = self.commands.try_recv() {
            return Some(Event::Command(command));
        }
        self.catalogs.try_recv().ok().map(Event::Catalog)
    }

    /// The next event; none at `deadline`, or when every source is closed and there is no deadline.
    pub(super) async fn next(&mut self, deadline: Option<Instant>) -> Option<Event> {
        let event = async {
            tokio::select! {
                biased;
                Some(event) = self.connections.recv() => Event::Connection(event),
                Some(event) = self.ports.recv() => Event::Ports(event),
                Some(command) = self.commands.recv() => Event::Command(command),
                Some(catalog) = self.catalogs.recv() => Event::Catalog(catalog),
                else => std::future::pending().await,
            }
        };
        match deadline {
            Some(deadline) => timeout_at(deadline.into(), event).await.ok(),
            None => Some(event.await),
        }
    }
}
