//! Properties of the policy over random memberships.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ebpf_common::{
    ids::FunctionId,
    limits::{MAX_WARM, SLOTS},
    maps::Affinity,
};
use proptest::prelude::*;

use super::*;
use crate::{
    catalog::Function,
    mac::MacAddress,
    membership::{
        protocol::{Heartbeat, SlotRange},
        state::Identity,
    },
    ports::{Port, Subnet},
};

#[derive(Debug, Clone)]
struct Worker {
    is_alive: bool,
    is_drained: bool,
    is_reachable: bool,
    slots: (u16, u16),
    warm: Vec<u64>,
    in_flight: u32,
}

fn any_worker() -> impl Strategy<Value = Worker> {
    (
        any::<(bool, bool)>(),
        prop::bool::weighted(0.9),
        (0..SLOTS as u16, 0u16..4000),
        prop::collection::vec(0u64..8, 0..6),
        0u32..40,
    )
        .prop_map(
            |((is_alive, is_drained), is_reachable, (first, len), warm, in_flight)| Worker {
                is_alive,
                is_drained,
                is_reachable,
                slots: (first, (first + len).min(SLOTS as u16 - 1)),
                warm,
                in_flight,
            },
        )
}

fn ports() -> Ports {
    Ports(vec![Port {
        name: "eth0".to_owned(),
        ifindex: 2,
        mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        subnets: vec![Subnet::new(
            Ipv4Addr::new(10, 80, 0, 2),
            Ipv4Addr::new(255, 255, 0, 0),
        )],
    }])
}

fn build(workers: &[Worker]) -> (Membership, Loads) {
    let mut membership = Membership::default();
    let mut loads = Loads::default();
    for (number, worker) in (0u8..).zip(workers) {
        let net = if worker.is_reachable { 80 } else { 90 };
        let id = membership
            .join(Identity {
                name: format!("w{number}"),
                address: Ipv4Addr::new(10, net, 0, number),
                mac: MacAddress::new([2, 0, 0, 0, 1, number]),
                interface: None,
                slots: vec![SlotRange {
                    first: worker.slots.0,
                    last: worker.slots.1,
                }],
                db_url: None,
            })
            .unwrap();
        membership.set_drained(id, worker.is_drained);
        if !worker.is_alive {
            membership.suspend(id);
        }
        loads.record(
            id,
            &Heartbeat {
                in_flight: worker.in_flight,
                capacity: 32,
                warm: worker.warm.iter().copied().map(FunctionId).collect(),
                draining: false,
            },
        );
    }
    (membership, loads)
}

fn catalog() -> Catalog {
    let functions = (0..8).map(|id| {
        (
            FunctionId(id),
            Function {
                qualified: format!("f{id}@latest"),
                affinity: Affinity::None,
            },
        )
    });
    Catalog {
        revision: None,
        functions: functions.collect(),
    }
}

fn tables(workers: &[Worker]) -> DesiredTables {
    let (membership, loads) = build(workers);
    let ports = ports();
    let slots = Slots::assign(&membership);
    let home = maglev::table(&home_workers(&membership, &ports));
    desired(&Inputs {
        vips: &[VipConfig {
            address: Ipv4Addr::new(10, 99, 0, 1),
            port: 9000,
        }],
        membership: &membership,
        catalog: Some(&catalog()),
        loads: &loads,
        ports: &ports,
        slots: &slots,
        home: &home,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn only_workers_that_take_new_work_are_in_warm_sets_and_in_the_home_table(
        workers in prop::collection::vec(any_worker(), 0..30),
    ) {
        let tables = tables(&workers);
        let up: BTreeSet<u16> = tables
            .workers
            .iter()
            .filter(|(_, info)| info.takes_new_work())
            .map(|(id, _)| id.0)
            .collect();
        for entry in tables.functions.unwrap().values() {
            let warm = &entry.warm[..usize::from(entry.warm_len)];
            let distinct: BTreeSet<_> = warm.iter().collect();
            prop_assert_eq!(distinct.len(), warm.len());
            prop_assert!(warm.iter().all(|id| up.contains(id)));
        }
        for id in &tables.home {
            prop_assert_eq!(id.is_some(), !up.is_empty());
            prop_assert!(up.is_empty() || up.contains(&id.0));
        }
    }

    #[test]
    fn every_slots_owner_claims_it_and_a_live_claimant_goes_first(
        workers in prop::collection::vec(any_worker(), 0..12),
    ) {
        let tables = tables(&workers);
        for (slot, owner) in (0u16..).zip(&tables.slots) {
            let claims = |worker: &&Worker| (worker.slots.0..=worker.slots.1).contains(&slot);
            let first_live = workers.iter().position(|worker| claims(&worker) && worker.is_alive);
            let first = workers.iter().position(|worker| claims(&worker));
            let expected = first_live.or(first).map_or(WorkerId::NONE, |id| WorkerId(id as u16));
            prop_assert_eq!(*owner, expected);
            prop_assert!(!owner.is_some() || tables.workers.contains_key(owner));
        }
    }

    #[test]
    fn of_too_many_warm_workers_the_least_loaded_are_taken(in_flight in prop::collection::vec(0u32..32, 17..30)) {
        let workers: Vec<Worker> = in_flight
            .iter()
            .map(|in_flight| Worker {
                is_alive: true,
                is_drained: false,
                is_reachable: true,
                slots: (0, 0),
                warm: vec![1],
                in_flight: *in_flight,
            })
            .collect();
        let entry = tables(&workers).functions.unwrap()[&1];
        prop_assert_eq!(usize::from(entry.warm_len), MAX_WARM);
        let step = |id: &u16| workers[usize::from(*id)].in_flight / 8;
        let worst = entry.warm.iter().map(step).max().unwrap();
        let left_out = (0..workers.len() as u16).filter(|id| !entry.warm.contains(id));
        prop_assert!(left_out.map(|id| step(&id)).all(|step| step >= worst));
    }
}

#[test]
fn a_vip_has_a_row_for_its_port_and_one_for_its_address() {
    let tables = tables(&[]);
    assert_eq!(tables.vips.len(), 2);
    let mark = tables.vips[&AnyVipKey::address_mark("10.99.0.1".parse().unwrap())];
    assert_eq!(mark.kind, VipKind::Address as u8);
    let port = tables.vips[&AnyVipKey::new("10.99.0.1".parse().unwrap(), 9000, UDP)];
    assert_eq!(port.kind, VipKind::Rpc as u8);
}

#[test]
fn a_worker_that_no_interface_reaches_is_down() {
    let worker = Worker {
        is_alive: true,
        is_drained: false,
        is_reachable: false,
        slots: (0, 0),
        warm: Vec::new(),
        in_flight: 0,
    };
    let tables = tables(&[worker]);
    assert_eq!(tables.workers[&WorkerId(0)].state(), WorkerState::Down);
}

#[test]
fn without_a_catalog_the_functions_are_left_alone() {
    let (membership, loads) = build(&[]);
    let tables = desired(&Inputs {
        vips: &[],
        membership: &membership,
        catalog: None,
        loads: &loads,
        ports: &ports(),
        slots: &Slots::assign(&membership),
        home: &maglev::table(&[]),
    });
    assert_eq!(tables.functions, None);
}
