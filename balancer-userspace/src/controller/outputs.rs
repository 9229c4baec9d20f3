//! What leaves the controller beside map writes: assignments, the state file, gauges.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ebpf_common::maps::Config as ConfigRow;
use tracing::warn;

use super::Controller;
use crate::{
    maps::MapStore,
    membership::{persist::Persisted, server::Shared},
    reconcile::tables::MapWrite,
};

impl<S: MapStore> Controller<S> {
    /// Tells all workers who holds which slots and what cookies are made with.
    pub(super) fn share(&self) {
        let config = self.applier.actual().config;
        let slots = self.slots.live_owners(&self.membership);
        self.shared.send_if_modified(|shared| {
            let slots_version = if shared.slots == slots && shared.slots_version != 0 {
                shared.slots_version
            } else {
                // Grows over a restart even if the state file is lost.
                unix_ms().max(shared.slots_version + 1)
            };
            let new = Shared {
                key_epoch: config.key_epoch as u8,
                cookie_keys: config.cookie_keys,
                // Until the configuration has a LOAD address.
                load: None,
                slots_version,
                slots,
            };
            let is_new = **shared != new;
            if is_new {
                *shared = Arc::new(new);
            }
            is_new
        });
    }

    /// The first control plane of a data plane makes the keys; the pinned map keeps them.
    pub(super) fn make_cookie_keys(&mut self) {
        let config = self.applier.actual().config;
        if config.cookie_keys == [[0; 2]; 2] {
            let cookie_keys = [rand::random(), rand::random()];
            self.applier.write_now(&[MapWrite::Config(ConfigRow {
                cookie_keys,
                ..config
            })]);
        }
    }

    pub(super) fn save(&mut self) {
        let slots_version = self.shared.borrow().slots_version;
        let is_saved = slots_version == self.saved_slots_version
            && !self.membership.differs_lastingly(&self.saved);
        if is_saved {
            return;
        }
        match Persisted::of(&self.membership, slots_version).write(&self.state_file) {
            Ok(()) => {
                self.saved = self.membership.clone();
                self.saved_slots_version = slots_version;
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "state not saved"),
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn publish(&self) {
        let mut states = BTreeMap::from([("up", 0), ("draining", 0), ("down", 0)]);
        for (_, member) in self.membership.iter() {
            *states.entry(member.state().name()).or_default() += 1;
        }
        for (state, count) in states {
            self.metrics.workers.with_label_values(&[state]).set(count);
        }
        let functions = self.applier.actual().functions.len();
        self.metrics
            .functions
            .set(i64::try_from(functions).unwrap_or(i64::MAX));
        let conflicts = self.slots.conflicts.len();
        if conflicts > 0 && self.metrics.slot_conflicts.get() == 0 {
            warn!(
                conflicts,
                "live workers claim the same slots; `GET /v1/slots` says which"
            );
        }
        self.metrics
            .slot_conflicts
            .set(i64::try_from(conflicts).unwrap_or(i64::MAX));
        self.metrics.set_interfaces(&self.interfaces);
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
