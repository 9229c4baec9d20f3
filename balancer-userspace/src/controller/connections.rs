//! Which connection speaks for which worker; of two, the later one.

use std::collections::HashMap;

use ebpf_common::ids::WorkerId;
use tokio_util::sync::CancellationToken;

use crate::membership::server::ConnectionId;

#[derive(Debug, Default)]
pub(super) struct Connections {
    by_connection: HashMap<ConnectionId, WorkerId>,
    by_worker: HashMap<WorkerId, (ConnectionId, CancellationToken)>,
}

impl Connections {
    /// `connection` speaks for `worker` from now on; another one that did is told to close. Returns what
    /// will tell this one the same.
    pub(super) fn insert(
        &mut self,
        connection: ConnectionId,
        worker: WorkerId,
    ) -> CancellationToken {
        self.supersede(worker);
        let superseded = CancellationToken::new();
        self.by_connection.insert(connection, worker);
        self.by_worker
            .insert(worker, (connection, superseded.clone()));
        superseded
    }

    /// Nobody speaks for `worker` any more; who did is told to close.
    pub(super) fn supersede(&mut self, worker: WorkerId) {
        if let Some((connection, token)) = self.by_worker.remove(&worker) {
            self.by_connection.remove(&connection);
            token.cancel();
        }
    }

    /// Whether `worker` has made another connection after `connection`.
    pub(super) fn has_later(&self, connection: ConnectionId, worker: WorkerId) -> bool {
        self.by_worker
            .get(&worker)
            .is_some_and(|(present, _)| *present > connection)
    }

    /// The worker that `connection` speaks for.
    pub(super) fn worker(&self, connection: ConnectionId) -> Option<WorkerId> {
        self.by_connection.get(&connection).copied()
    }

    /// Forgets `connection`, and returns the worker that it spoke for until now.
    pub(super) fn remove(&mut self, connection: ConnectionId) -> Option<WorkerId> {
        let worker = self.by_connection.remove(&connection)?;
        self.by_worker.remove(&worker);
        Some(worker)
    }
}
