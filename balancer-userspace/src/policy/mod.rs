//! What the tables should hold. Pure: a function of membership, catalog, loads, rules and our interfaces.
//!
//! Asked row by row ([`Inputs::worker_row`], [`Inputs::function_row`]), so that a change costs what it touches and not what
//! is there; [`desired`] asks for everything. The home tables are kept apart ([`Homes`]): they cost milliseconds.

mod homes;
pub mod keep_warm;
pub mod maglev;
pub mod orders;
mod rules;
mod warm;

use std::{collections::BTreeMap, sync::Arc};

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits::MAX_WORKERS,
    maps::{FunctionEntry, WorkerInfo, WorkerState, worker_flags},
};
pub use homes::{Homes, Table};
pub use rules::{PoolNumbers, Rules, Settings, pool_numbers, rate_text};
pub use warm::{load_step, warm_set};

use crate::{
    catalog::Catalog,
    loads::Loads,
    membership::state::{Member, Membership},
    ports::{Port, Ports},
    reconcile::tables::DesiredTables,
    schemas::Schemas,
};

/// What the policy looks at.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// VIPs, weights and all else that is configured.
    pub rules: &'a Arc<Rules>,
    /// Who is alive.
    pub membership: &'a Membership,
    /// What can be called; none while nobody knows, and then what the data plane holds stays.
    pub catalog: Option<&'a Catalog>,
    /// Who is how busy and keeps what warm.
    pub loads: &'a Loads,
    /// Our own interfaces.
    pub ports: &'a Ports,
    /// Where the extractors of functions lie.
    pub schemas: &'a Schemas,
    /// Whether next hops are asked of the kernel's FIB.
    pub fib: bool,
}

impl Inputs<'_> {
    /// The row of `WORKERS` for `id`.
    #[must_use]
    pub fn worker_row(&self, id: WorkerId) -> WorkerInfo {
        let Some(member) = self.membership.get(id) else {
            return WorkerInfo::ABSENT;
        };
        let port = port_of(member, self.ports);
        let (weight, cap) = self.rules.worker(&member.identity.name);
        let mut flags = 0;
        if self.fib {
            flags |= worker_flags::FIB;
        }
        if member.identity.address6.is_some() && self.rules.settings.tunnel_v4 == [0; 4] {
            flags |= worker_flags::OUTER_V6;
        }
        WorkerInfo {
            ifindex: port.map_or(0, |port| port.ifindex),
            state: self.row_state(member) as u8,
            flags,
            weight,
            dst_mac: member.identity.mac.bytes(),
            src_mac: port.map_or([0; 6], |port| port.mac.bytes()),
            addr4: member.identity.address.octets(),
            addr6: member.identity.address6.map_or([0; 16], |v6| v6.octets()),
            cap,
            mtu: port.map_or(0, |port| port.mtu),
            ..WorkerInfo::ABSENT
        }
    }

    /// Name and weight of `id`, if it takes new work.
    #[must_use]
    pub fn taker(&self, id: WorkerId) -> Option<(&str, u16)> {
        let member = self.membership.get(id)?;
        let name = member.identity.name.as_str();
        (self.row_state(member) == WorkerState::Up).then(|| (name, self.rules.worker(name).0))
    }

    /// Whether `id` takes new work.
    #[must_use]
    pub fn takes_new_work(&self, id: WorkerId) -> bool {
        let member = self.membership.get(id);
        member.is_some_and(|member| self.row_state(member) == WorkerState::Up)
    }

    /// The row of `FUNCTIONS` for `id`; none if there is no such function.
    #[must_use]
    pub fn function_row(&self, id: FunctionId, catalog: &Catalog) -> Option<FunctionEntry> {
        let function = catalog.functions.get(&id)?;
        let warm = warm_set(self, id);
        let schema = function.schema.as_ref();
        Some(FunctionEntry {
            schema: schema.map_or(0, |schema| self.schemas.reference(schema)),
            ..FunctionEntry::new(function.affinity, &warm)
        })
    }

    /// A worker that no interface of ours reaches is as good as down.
    fn row_state(&self, member: &Member) -> WorkerState {
        match port_of(member, self.ports) {
            Some(_) => member.state(),
            None if self.fib => member.state(),
            None => WorkerState::Down,
        }
    }
}

/// All tables for `inputs`.
#[must_use]
pub fn desired(inputs: &Inputs<'_>, slots: &Arc<Vec<WorkerId>>, homes: &Homes) -> DesiredTables {
    let ids = (0..MAX_WORKERS as u16).map(WorkerId);
    let functions = inputs.catalog.map(|catalog| {
        let rows = catalog.functions.keys();
        rows.filter_map(|id| Some((id.0, inputs.function_row(*id, catalog)?)))
            .collect()
    });
    DesiredTables {
        rules: Some(Arc::clone(inputs.rules)),
        workers: ids.map(|id| (id, inputs.worker_row(id))).collect(),
        functions,
        slots: Arc::clone(slots),
        homes: homes.tables().to_vec(),
        ports: inputs.ports.0.iter().map(|port| port.ifindex).collect(),
    }
}

/// The tables for `inputs` as far as workers, slots, homes and ports go, of the workers `ids` only.
#[must_use]
pub fn structure(
    inputs: &Inputs<'_>,
    ids: impl Iterator<Item = WorkerId>,
    slots: &Arc<Vec<WorkerId>>,
    homes: &Homes,
) -> DesiredTables {
    let workers: BTreeMap<_, _> = ids.map(|id| (id, inputs.worker_row(id))).collect();
    DesiredTables {
        rules: None,
        workers,
        functions: None,
        slots: Arc::clone(slots),
        homes: homes.tables().to_vec(),
        ports: inputs.ports.0.iter().map(|port| port.ifindex).collect(),
    }
}

/// Our interface that `member` is reached by.
#[must_use]
pub fn port_of<'a>(member: &Member, ports: &'a Ports) -> Option<&'a Port> {
    match &member.identity.interface {
        Some(name) => ports.named(name),
        None => ports.reaching(member.identity.address),
    }
}

#[cfg(test)]
mod tests;
