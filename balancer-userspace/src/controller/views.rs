//! The controller's state as the admin API shows it.

use std::collections::HashMap;

use ebpf_common::{
    LAYOUT_VERSION,
    ids::{FunctionId, WorkerId},
    maps::{VipKind, WorkerState, home_hash, home_index},
};

use super::Controller;
use crate::{
    api::types::{
        FunctionStatus, SlotConflictStatus, SlotOwnerStatus, SlotsStatus, Status, VipStatus,
        WorkerStatus,
    },
    maps::{MapStore, TrafficNames, affinity_name, protocol_name},
    policy,
};

/// The pool of all workers.
const ALL_WORKERS: u8 = 0;

impl<S: MapStore> Controller<S> {
    pub(super) fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layout_version: LAYOUT_VERSION,
            pid: std::process::id(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            program_id: self.program.id,
            program_tag: self.program.tag.clone(),
            adopted: self.program.adopted,
            interfaces: self.interfaces.clone(),
            membership_version: self.membership.version(),
            catalog_revision: self.catalog.as_ref().and_then(|catalog| catalog.revision),
            slots_version: self.shared.borrow().slots_version,
            key_epoch: self.applier.actual().config.key_epoch,
            keys_shared: self.key_secret.is_some(),
            workers_up: self.workers_up(),
            workers: self.membership.len(),
            functions: self.applier.actual().functions.len(),
            vips: self.policy.vips.len(),
            map_writes: self.metrics.writes(),
            writes_pending: self.pending(),
        }
    }

    pub(super) fn workers(&self) -> Vec<WorkerStatus> {
        let ids: Vec<WorkerId> = self.membership.iter().map(|(id, _)| id).collect();
        ids.into_iter().filter_map(|id| self.worker(id)).collect()
    }

    pub(super) fn worker(&self, id: WorkerId) -> Option<WorkerStatus> {
        let member = self.membership.get(id)?;
        let load = self.loads.get(id);
        let report = load.and_then(|load| load.report).unwrap_or_default();
        let port = policy::port_of(member, &self.ports);
        let state = match port {
            Some(_) => member.state(),
            None => WorkerState::Down,
        };
        let identity = &member.identity;
        let warm = load.map_or(&[][..], |load| &load.warm);
        Some(WorkerStatus {
            id: id.0,
            name: identity.name.clone(),
            address: identity.address,
            mac: identity.mac.to_string(),
            state: state.name().to_owned(),
            drained_by_operator: member.is_drained,
            presumed: self.presumed.contains(&id),
            source: member.source.name().to_owned(),
            interface: port.map(|port| port.name.clone()),
            in_flight: report.in_flight,
            capacity: report.capacity,
            weight: self.rules.worker(&identity.name).0,
            cap: Some(self.rules.worker(&identity.name).1).filter(|cap| *cap != 0),
            warm: warm.iter().map(|id| self.function_name(*id)).collect(),
            slots: identity.slots.iter().map(ToString::to_string).collect(),
            db_url: identity.db_url.clone(),
        })
    }

    pub(super) fn functions(&self) -> Vec<FunctionStatus> {
        let names: HashMap<u16, &str> = self
            .membership
            .iter()
            .map(|(id, member)| (id.0, member.identity.name.as_str()))
            .collect();
        let name = |id: &u16| names.get(id).map(|name| (*name).to_owned());
        let actual = self.applier.actual();
        let mut functions: Vec<FunctionStatus> = actual
            .functions
            .iter()
            .map(|(id, entry)| {
                let home = home_index(
                    actual.config.generation,
                    ALL_WORKERS,
                    home_hash(FunctionId(*id)),
                    0,
                );
                let warm = entry.warm.iter().take(usize::from(entry.warm_len));
                FunctionStatus {
                    id: FunctionId(*id).to_string(),
                    qualified: self.qualified(FunctionId(*id)).unwrap_or_default(),
                    affinity: affinity_name(entry.affinity()).to_owned(),
                    warm: warm.filter_map(name).collect(),
                    home: actual.home.get(home as usize).and_then(|id| name(&id.0)),
                }
            })
            .collect();
        functions.sort_by(|a, b| (&a.qualified, &a.id).cmp(&(&b.qualified, &b.id)));
        functions
    }

    pub(super) fn slots_status(&self) -> SlotsStatus {
        let shared = self.shared.borrow().clone();
        let name = |id: WorkerId| {
            let member = self.membership.get(id);
            member.map_or_else(|| id.to_string(), |member| member.identity.name.clone())
        };
        let unowned = self.slots.unowned(&self.membership);
        SlotsStatus {
            version: shared.slots_version,
            owners: shared
                .slots
                .iter()
                .map(|owner| SlotOwnerStatus {
                    range: owner.range.to_string(),
                    worker: owner.worker.clone(),
                    db_url: owner.db_url.clone(),
                })
                .collect(),
            unowned: unowned.iter().map(ToString::to_string).collect(),
            conflicts: self
                .slots
                .conflicts
                .iter()
                .map(|conflict| SlotConflictStatus {
                    range: conflict.range.to_string(),
                    winner: name(conflict.winner),
                    loser: name(conflict.loser),
                })
                .collect(),
        }
    }

    pub(super) fn vips(&self) -> Vec<VipStatus> {
        let name = |number: u8| {
            let named = self.pools.iter().find(|(_, known)| **known == number);
            named.map(|(name, _)| name.clone())
        };
        let rows = self.rules.vips.iter();
        let mut vips: Vec<VipStatus> = rows
            .filter(|(_, info)| info.kind() != Some(VipKind::Address))
            .map(|(key, info)| {
                let (address, port, protocol) = key.parts();
                VipStatus {
                    vip_id: info.vip_id,
                    address,
                    port,
                    protocol: protocol_name(protocol),
                    kind: info.kind().map_or("unknown", VipKind::name).to_owned(),
                    forward: info.forward().name().to_owned(),
                    pool: name(info.pool),
                }
            })
            .collect();
        vips.sort_unstable_by_key(|vip| vip.vip_id);
        vips
    }

    pub(super) fn names(&self, functions: &[FunctionId]) -> TrafficNames {
        let vips = self.rules.vips.iter();
        let vips = vips.filter(|(_, info)| info.kind() != Some(VipKind::Address));
        let workers = self.membership.iter();
        let named = functions.iter();
        TrafficNames {
            vips: vips.map(|(key, info)| (info.vip_id, key.label())).collect(),
            workers: workers
                .map(|(id, member)| (id, member.identity.name.clone()))
                .collect(),
            functions: named
                .filter_map(|id| Some((*id, self.qualified(*id)?)))
                .collect(),
        }
    }

    fn qualified(&self, id: FunctionId) -> Option<String> {
        let function = self.catalog.as_ref()?.functions.get(&id)?;
        Some(function.qualified.clone())
    }

    fn function_name(&self, id: FunctionId) -> String {
        self.qualified(id).unwrap_or_else(|| id.to_string())
    }
}
