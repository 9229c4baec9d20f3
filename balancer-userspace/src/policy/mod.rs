//! What the tables should hold. Pure: a function of membership, catalog, loads and our interfaces.
//!
//! The home table alone is made apart ([`maglev::table`]): it costs milliseconds and only changes when
//! a worker begins or ceases to take new work, so the controller keeps the last one.

pub mod maglev;
mod warm;

use std::collections::{BTreeMap, HashMap};

use ebpf_common::{
    ids::WorkerId,
    maps::{FunctionEntry, NORMAL_WEIGHT, VipInfo, VipKind, WorkerInfo, WorkerState},
};

pub use warm::{load_step, warm_sets};

use crate::{
    catalog::Catalog,
    config::VipConfig,
    loads::Loads,
    membership::state::{Member, Membership},
    ports::Ports,
    reconcile::tables::{AnyVipKey, DesiredTables},
    slots::Slots,
};

/// IP protocol number of UDP.
const UDP: u8 = 17;

/// What the policy looks at.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The VIPs of the configuration.
    pub vips: &'a [VipConfig],
    /// Who is alive.
    pub membership: &'a Membership,
    /// What can be called; none while nobody knows, and then what the data plane holds stays.
    pub catalog: Option<&'a Catalog>,
    /// Who is how busy and keeps what warm.
    pub loads: &'a Loads,
    /// Our own interfaces.
    pub ports: &'a Ports,
    /// Who holds which slots.
    pub slots: &'a Slots,
    /// The Maglev table over [`home_workers`].
    pub home: &'a [WorkerId],
}

/// The tables for `inputs`.
#[must_use]
pub fn desired(inputs: &Inputs<'_>) -> DesiredTables {
    let workers = worker_rows(inputs.membership, inputs.ports);
    DesiredTables {
        vips: vip_rows(inputs.vips),
        functions: inputs
            .catalog
            .map(|catalog| function_rows(catalog, &workers, inputs.loads)),
        workers,
        slots: inputs.slots.owners.clone(),
        home: inputs.home.to_vec(),
        ports: inputs.ports.0.iter().map(|port| port.ifindex).collect(),
    }
}

/// The workers that the home table is made over, by name: those that take new work.
#[must_use]
pub fn home_workers<'a>(membership: &'a Membership, ports: &Ports) -> Vec<(&'a str, WorkerId)> {
    membership
        .iter()
        .filter(|(_, member)| row_state(member, ports) == WorkerState::Up)
        .map(|(id, member)| (member.identity.name.as_str(), id))
        .collect()
}

/// Our interface that `member` is reached by.
#[must_use]
pub fn port_of<'a>(member: &Member, ports: &'a Ports) -> Option<&'a crate::ports::Port> {
    match &member.identity.interface {
        Some(name) => ports.named(name),
        None => ports.reaching(member.identity.address),
    }
}

/// A worker that no interface of ours reaches is as good as down.
fn row_state(member: &Member, ports: &Ports) -> WorkerState {
    match port_of(member, ports) {
        Some(_) => member.state(),
        None => WorkerState::Down,
    }
}

/// The rows of `WORKERS`.
#[must_use]
pub fn worker_rows(membership: &Membership, ports: &Ports) -> BTreeMap<WorkerId, WorkerInfo> {
    membership
        .iter()
        .map(|(id, member)| {
            let port = port_of(member, ports);
            let info = WorkerInfo {
                ifindex: port.map_or(0, |port| port.ifindex),
                state: row_state(member, ports) as u8,
                weight: NORMAL_WEIGHT,
                dst_mac: member.identity.mac.bytes(),
                src_mac: port.map_or([0; 6], |port| port.mac.bytes()),
                addr4: member.identity.address.octets(),
                mtu: port.map_or(0, |port| port.mtu),
                ..WorkerInfo::ABSENT
            };
            (id, info)
        })
        .collect()
}

fn function_rows(
    catalog: &Catalog,
    workers: &BTreeMap<WorkerId, WorkerInfo>,
    loads: &Loads,
) -> BTreeMap<u64, FunctionEntry> {
    let warm = warm_sets(workers, loads);
    catalog
        .functions
        .iter()
        .map(|(id, function)| {
            let warm = warm.get(id).map_or(&[][..], Vec::as_slice);
            (id.0, FunctionEntry::new(function.affinity, warm))
        })
        .collect()
}

fn vip_rows(vips: &[VipConfig]) -> HashMap<AnyVipKey, VipInfo> {
    let mut rows = HashMap::new();
    for (number, vip) in (0..).zip(vips) {
        let address = vip.address.into();
        rows.entry(AnyVipKey::address_mark(address))
            .or_insert_with(|| VipInfo::new(number, VipKind::Address));
        rows.insert(
            AnyVipKey::new(address, vip.port, UDP),
            VipInfo::new(number, VipKind::Rpc),
        );
    }
    rows
}

#[cfg(test)]
mod tests;
