//! Which policy is in force, and how another one takes its place.

use std::{net::SocketAddr, sync::Arc};

use ebpf_common::{ids::WorkerId, limits::MAX_WORKERS};
use tracing::{error, info};

use super::{CommandError, Controller, inputs};
use crate::{
    api::types::{PolicyChange, PolicyStatus, RowChange},
    config::PolicyFile,
    history::History,
    maps::MapStore,
    policy::{self, Homes, Rules},
    reconcile::{
        self,
        tables::{ActualTables, DesiredTables, MapWrite},
    },
};

/// Row changes that a difference names one by one; of `HOME` and `SLOTS` it only says how many.
const SHOWN_MAX: usize = 10_000;

impl<S: MapStore> Controller<S> {
    /// Where workers are to send LOAD packets. Nowhere while a VIP is there, as when our own address has become a VIP's: what
    /// clients send comes first, and heartbeats tell of loads, too.
    pub(super) fn load_address(&self) -> Option<SocketAddr> {
        self.load_address_beside(&self.policy)
    }

    fn load_address_beside(&self, file: &PolicyFile) -> Option<SocketAddr> {
        let load = self.config.load_address(self.ports.own_address())?;
        file.udp_vip_at(load).is_none().then_some(load)
    }

    /// Says that our interfaces now have an address that a VIP has.
    pub(super) fn look_at_load_address(&self) {
        if let Some(load) = self.config.load_address(self.ports.own_address())
            && let Some(vip) = self.policy.udp_vip_at(load)
        {
            error!(
                vip = vip.label(),
                %load,
                "the LOAD address is a VIP's now: workers send no LOAD packets until [load] names another"
            );
        }
    }

    /// Puts `file`, which was checked, in force.
    pub(super) fn set_policy(&mut self, file: PolicyFile, revision: u64) {
        self.pools = policy::pool_numbers(&file, &self.pools);
        self.policy = file;
        self.revision = revision;
        self.refresh_rules();
        // Weights and caps.
        self.dirty.all_workers = true;
    }

    /// Makes the rules anew.
    pub(super) fn refresh_rules(&mut self) {
        let rules = self.rules_of(&self.policy, &self.pools);
        if rules != *self.rules {
            self.homes.pools_changed(&self.rules, &rules);
            self.rules = Arc::new(rules);
        }
        self.dirty.rules = true;
    }

    fn rules_of(&self, file: &PolicyFile, pools: &policy::PoolNumbers) -> Rules {
        let vips = &self.applier.actual().vips;
        let load = self.load_address_beside(file);
        Rules::of(&self.config, file, load, vips, pools)
    }

    pub(super) fn policy_status(&self) -> PolicyStatus {
        PolicyStatus {
            revision: self.revision,
            policy: self.policy.clone(),
        }
    }

    /// What `file` would change; carries it out, too, unless it is a dry run.
    pub(super) fn change_policy(
        &mut self,
        file: PolicyFile,
        is_dry_run: bool,
    ) -> Result<PolicyChange, CommandError> {
        let wrong = |(key, problem)| CommandError::Policy { key, problem };
        file.check(&self.config).map_err(wrong)?;
        if let Some(load) = self.config.load_address(self.ports.own_address())
            && let Some(vip) = file.udp_vip_at(load)
        {
            return Err(wrong((
                format!("vip {}", vip.label()),
                "is the LOAD address".to_owned(),
            )));
        }
        let mut change = self.difference(&file);
        if is_dry_run {
            return Ok(change);
        }
        if file != self.policy || self.revision == 0 {
            let history = History::new(self.config.policy_dir());
            let revision = history
                .add(&file, &self.policy)
                .map_err(CommandError::History)?;
            self.set_policy(file, revision);
            info!(revision, rows = change.rows.len(), "policy applied");
            self.replan();
        }
        change.revision = self.revision;
        change.is_applied = true;
        Ok(change)
    }

    /// The plan from what the maps hold to `file`, in words. Nothing is changed.
    fn difference(&self, file: &PolicyFile) -> PolicyChange {
        let pools = policy::pool_numbers(file, &self.pools);
        let rules = Arc::new(self.rules_of(file, &pools));
        let mut homes: Homes = self.homes.clone();
        homes.pools_changed(&self.rules, &rules);
        let inputs = policy::Inputs {
            rules: &rules,
            ..inputs!(self)
        };
        let ids = || (0..MAX_WORKERS as u16).map(WorkerId);
        for id in ids() {
            homes.set(id, inputs.taker(id), &rules);
        }
        homes.refresh(&rules);
        let desired = DesiredTables {
            rules: Some(Arc::clone(&rules)),
            ..policy::structure(&inputs, ids(), &self.slots.owners, &homes)
        };
        let actual = self.applier.actual();
        let writes = reconcile::plan(&desired, actual);
        let is_entry = |write: &&MapWrite| matches!(write, MapWrite::Home(..) | MapWrite::Slot(..));
        let entries = writes.iter().filter(is_entry).count();
        let rows = writes.iter().filter(|write| !is_entry(write));
        PolicyChange {
            revision: self.revision,
            is_applied: false,
            rows: rows
                .take(SHOWN_MAX)
                .map(|write| row_change(write, actual))
                .collect(),
            table_entries: entries,
        }
    }
}

/// A write in words.
fn row_change(write: &MapWrite, actual: &ActualTables) -> RowChange {
    let (before, after) = match write {
        MapWrite::AddPort(ifindex) => (None, Some(format!("ifindex {ifindex}"))),
        MapWrite::RemovePort(ifindex) => (Some(format!("ifindex {ifindex}")), None),
        MapWrite::Worker(id, info) => {
            let text = |info: &ebpf_common::maps::WorkerInfo| {
                format!(
                    "worker {id} {} weight {} cap {} ifindex {}",
                    info.state().name(),
                    info.weight,
                    info.cap,
                    info.ifindex
                )
            };
            (
                Some(text(&actual.workers[usize::from(id.0)])),
                Some(text(info)),
            )
        }
        MapWrite::Vip(key, info) => (
            actual.vips.get(key).map(|old| vip_text(key, old)),
            Some(vip_text(key, info)),
        ),
        MapWrite::RemoveVip(key) => (actual.vips.get(key).map(|old| vip_text(key, old)), None),
        MapWrite::Block(prefix) => (None, Some(prefix.to_string())),
        MapWrite::Unblock(prefix) => (Some(prefix.to_string()), None),
        MapWrite::Limit(function, rate) => (
            actual
                .limits
                .get(function)
                .map(|old| limit_text(*function, old)),
            Some(limit_text(*function, rate)),
        ),
        MapWrite::Unlimit(function) => (
            actual
                .limits
                .get(function)
                .map(|old| limit_text(*function, old)),
            None,
        ),
        MapWrite::Settings(settings) => {
            let before = policy::Settings::held_in(&actual.config);
            (Some(before.to_string()), Some(settings.to_string()))
        }
        MapWrite::Generation(generation) => {
            let before = actual.config.generation;
            (
                Some(format!("generation {before}")),
                Some(format!("generation {generation}")),
            )
        }
        MapWrite::Pktgen(row, info) => (
            None,
            Some(format!(
                "row {row}: {} functions, {} sessions",
                info.functions_len, info.sessions
            )),
        ),
        MapWrite::VipFilter(index, word) | MapWrite::BlockFilter(index, word) => {
            (None, Some(format!("word {index} = {word:#018x}")))
        }
        other => (None, Some(format!("{other:?}"))),
    };
    RowChange {
        map: write.map().to_owned(),
        before,
        after,
    }
}

fn vip_text(
    key: &crate::reconcile::tables::AnyVipKey,
    info: &ebpf_common::maps::VipInfo,
) -> String {
    let (address, port, protocol) = key.parts();
    let kind = info
        .kind()
        .map_or("unknown", ebpf_common::maps::VipKind::name);
    let protocol = crate::maps::protocol_name(protocol);
    format!(
        "{address} port {port} {protocol} {kind} {} pool {} vip_id {}",
        info.forward().name(),
        info.pool,
        info.vip_id
    )
}

fn limit_text(function: ebpf_common::ids::FunctionId, rate: &ebpf_common::maps::Rate) -> String {
    format!("function {function} {}", policy::rate_text(rate))
}
