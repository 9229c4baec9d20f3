//! What leaves the controller beside map writes: assignments, the state file, gauges.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use ebpf_common::maps::Config as ConfigRow;
use nix::time::{ClockId, clock_getres};
use tracing::warn;

use super::{Controller, SAVE_AGAIN_AFTER};
use crate::{
    clock::unix_ms,
    loads::Report,
    maps::{MapStore, TableRows},
    membership::{
        persist::Persisted,
        server::{LoadSink, Shared},
        state::{Member, Source},
    },
    policy::keep_warm::spread,
    reconcile::tables::{Constants, Keys, MapWrite},
};

/// 250 ticks a second, as most distributions have it.
const COMMON_TICK_NS: u32 = 4_000_000;

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
                load: self.load_address().map(|address| LoadSink {
                    address,
                    keys: config.load_keys(),
                }),
                slots_version,
                slots,
                keep_warm: Arc::clone(&shared.keep_warm),
            };
            let is_new = **shared != new;
            if is_new {
                *shared = Arc::new(new);
            }
            is_new
        });
    }

    /// Tells workers what to keep warm, where that has changed.
    pub(super) fn share_keep_warm(&self) {
        let table = self.homes.tables().first().and_then(Option::as_ref);
        let workers = self.homes.takers().count();
        let new = spread(
            table.map_or(&[][..], |table| table),
            workers,
            &self.wanted(),
        );
        self.shared.send_if_modified(|shared| {
            let is_new = *shared.keep_warm != new;
            if is_new {
                Arc::make_mut(shared).keep_warm = Arc::new(new);
            }
            is_new
        });
    }

    /// Fills in what no plan is about. Keys and secrets are made by the first control plane of a data plane; the pinned
    /// map keeps them.
    ///
    /// In an orphaned data plane, one whose names of workers are lost, ids mean other workers from now on, in route cookies
    /// and LOAD packets, and in the session and flow tables. What makes these valid, or found, is made anew. Not keys of a
    /// shared secret: then workers bring their ids with them.
    pub(super) fn complete_config(&mut self, rows: TableRows, is_orphaned: bool) {
        let config = self.applier.actual().config;
        let kept = if is_orphaned {
            disowned(config)
        } else {
            config
        };
        for write in completed(&kept, rows, self.shared_keys()) {
            if write.config(config) != Some(config) {
                self.applier.write_now(&[write]);
            }
        }
    }

    /// Workers that send neither heartbeats nor LOAD packets are never full.
    pub(super) fn reset_static_loads(&mut self) {
        let is_static = |member: &Member| member.source == Source::Static;
        let members = self.membership.iter();
        let ids: Vec<_> = members
            .filter(|(_, member)| is_static(member))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            let never_full = Report {
                in_flight: 0,
                capacity: u32::MAX,
            };
            // It may have sent some when it was no static one, or another one that had this id may have.
            self.applier.restart_load(id, never_full);
        }
    }

    pub(super) fn save_if_due(&mut self) {
        if self.save_at.is_some_and(|at| Instant::now() >= at) {
            self.save();
        }
    }

    /// Has the state file written, if it is out of date.
    pub(super) fn save(&mut self) {
        self.save_at = None;
        if self.state_file.has_failed() {
            self.saved = None;
        }
        let slots_version = self.shared.borrow().slots_version;
        let lasting = (
            self.membership.version(),
            slots_version,
            self.keys_made_s,
            self.pools.clone(),
            self.orders.clone(),
        );
        if self.saved.as_ref() == Some(&lasting) {
            return;
        }
        let state = Persisted {
            pools: self.pools.clone(),
            keys_made_s: self.keys_made_s,
            orders: self.orders.clone(),
            ..Persisted::of(&self.membership, slots_version)
        };
        self.state_file.write(state);
        self.saved = Some(lasting);
        // Whether it was written is known by then.
        self.save_at = Some(Instant::now() + SAVE_AGAIN_AFTER);
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
        self.publish_orders();
    }
}

/// The coarse clock moves with each tick of the kernel's timer, and says so.
fn tick_ns() -> u32 {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE);
    resolution
        .ok()
        .and_then(|tick| u32::try_from(tick.tv_nsec()).ok())
        .filter(|tick| *tick > 0)
        .unwrap_or(COMMON_TICK_NS)
}

/// Without the secret and the keys that what names a worker's id is found or opened with. Address tokens name none.
const fn disowned(config: ConfigRow) -> ConfigRow {
    ConfigRow {
        table_secret: [0; 2],
        cookie_keys: [[0; 2]; 2],
        load_keys: [[0; 2]; 2],
        ..config
    }
}

fn completed(config: &ConfigRow, rows: TableRows, shared: Option<Keys>) -> [MapWrite; 2] {
    let made = |secret: [u64; 2]| {
        if secret == [0; 2] {
            rand::random()
        } else {
            secret
        }
    };
    let held = Keys::of(config);
    let keys = shared.unwrap_or_else(|| Keys {
        cookie: held.cookie.map(made),
        token: held.token.map(made),
        load: held.load.map(made),
        ..held
    });
    [
        MapWrite::Constants(Constants {
            session_mask: rows.sessions - 1,
            flow_mask: rows.flows - 1,
            function_mask: rows.functions - 1,
            tick_ns: tick_ns(),
            table_secret: made(config.table_secret),
        }),
        MapWrite::Keys(keys),
    ]
}
