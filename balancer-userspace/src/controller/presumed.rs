//! Workers whose connection is lost, and that LOAD packets show to be alive.
//!
//! Connections and packets may go different ways. When a management network is parted, or a switch of it starts anew, all
//! connections fall silent at once; were all workers down then, so were all that they do, though every packet arrives.
//! LOAD packets come the way that requests go back, so they are the better evidence. It is asked for only where there
//! is no word of the worker's end: when its process dies, its kernel closes the connection, and it is down at once.

use std::time::{Duration, Instant};

use ebpf_common::ids::WorkerId;
use tracing::{info, warn};

use super::{Controller, reports::SILENCE};
use crate::maps::MapStore;

impl<S: MapStore> Controller<S> {
    /// Nothing is heard of worker `id` any more by its connection: it is down, unless its LOAD packets come.
    pub(super) fn lose(&mut self, id: WorkerId, why: &str) {
        let now = Instant::now();
        if let Some(load) = self.applier.load(id) {
            self.reports.see(id, &load, now);
        }
        // Half, as the last packet came up to one look at the loads before it was seen: a host that is dead is so
        // when its lease is over, not a look later.
        if !self.reports.speaks(id, now, self.patience() / 2) {
            self.suspend(id, why);
            return;
        }
        self.presumed.insert(id);
        self.publish_presumed();
        if let Some(member) = self.membership.get(id) {
            let name = &member.identity.name;
            warn!(
                worker = name,
                id = id.0,
                why,
                "worker is presumed alive: its LOAD packets come"
            );
        }
    }

    /// Whether worker `id`, which has no connection, still counts as alive.
    pub(super) fn is_presumable(&self, id: WorkerId, now: Instant) -> bool {
        self.reports.speaks(id, now, self.patience())
    }

    /// Nothing is presumed of worker `id` any more: it is connected, or down.
    pub(super) fn presume_no_more(&mut self, id: WorkerId) {
        if self.presumed.remove(&id) {
            self.publish_presumed();
            info!(id = id.0, "worker is not presumed alive any more");
        }
    }

    /// How long a worker may be silent.
    fn patience(&self) -> Duration {
        let terms = self.config.membership.as_ref();
        terms.map_or(SILENCE, |terms| {
            SILENCE.min(Duration::from_millis(terms.lease_ms.into()))
        })
    }

    fn publish_presumed(&self) {
        let presumed = i64::try_from(self.presumed.len());
        self.metrics.presumed.set(presumed.unwrap_or(i64::MAX));
    }
}
