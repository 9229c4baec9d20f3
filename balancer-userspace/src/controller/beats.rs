//! Heartbeats that wait to be taken in: of each connection only the newest, as each says everything.
//!
//! When the controller is busy, or a worker changes faster than it looks, several are in the queue at once. All but the
//! last of a worker then cost nothing.

use std::collections::BTreeMap;

use crate::membership::{protocol::Heartbeat, server::ConnectionId};

#[derive(Debug, Default)]
pub(super) struct Beats(BTreeMap<ConnectionId, Heartbeat>);

impl Beats {
    /// Returns whether it took the place of one that will not be looked at any more.
    pub(super) fn push(&mut self, connection: ConnectionId, heartbeat: Heartbeat) -> bool {
        self.0.insert(connection, heartbeat).is_some()
    }

    /// Those that wait, in the order of their connections.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (ConnectionId, Heartbeat)> + use<> {
        std::mem::take(&mut self.0).into_iter()
    }
}
