//! Properties of the policy over random memberships.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
};

use ebpf_common::{
    ids::FunctionId,
    limits::{MAX_WARM, SLOTS},
    maps::{Affinity, VipKind},
};
use proptest::prelude::*;

use super::*;
use crate::{
    catalog::Function,
    config::{Config, PolicyFile},
    mac::MacAddress,
    membership::{
        protocol::{Heartbeat, SlotRange},
        state::Identity,
    },
    ports::{Port, Subnet},
    reconcile::tables::AnyVipKey,
    schemas::Schemas,
    slots::Slots,
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
                address6: None,
                own_id: None,
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
                kept: Vec::new(),
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
                schema: None,
            },
        )
    });
    Catalog {
        revision: None,
        functions: functions.collect(),
        kept: Vec::new(),
    }
}

fn rules(vips: &str) -> Arc<Rules> {
    let text = format!(
        r#"
        pin_path = "/sys/fs/bpf/none"
        admin_socket = "/run/none.sock"
        interface = [{{ name = "eth0" }}]
        {vips}
        "#
    );
    let config = Config::parse(&text, std::path::Path::new("balancer.toml")).unwrap();
    let file = config.policy();
    let numbers = pool_numbers(&file, &PoolNumbers::new());
    Arc::new(Rules::of(&config, &file, None, &HashMap::new(), &numbers))
}

const VIP: &str = "[[vip]]\naddress = \"10.99.0.1\"\nport = 9000";

fn desired_of(
    membership: &Membership,
    loads: &Loads,
    rules: &Arc<Rules>,
    catalog: Option<&Catalog>,
) -> DesiredTables {
    let inputs = Inputs {
        rules,
        membership,
        catalog,
        loads,
        ports: &ports(),
        schemas: &Schemas::default(),
        fib: false,
    };
    let mut homes = Homes::default();
    for (id, _) in membership.iter() {
        homes.set(id, inputs.taker(id), rules);
    }
    homes.pools_changed(&Rules::default(), rules);
    homes.refresh(rules);
    desired(&inputs, &Slots::assign(membership).owners, &homes)
}

fn tables(workers: &[Worker]) -> DesiredTables {
    let (membership, loads) = build(workers);
    desired_of(&membership, &loads, &rules(VIP), Some(&catalog()))
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
        for id in tables.homes[0].as_ref().unwrap().iter() {
            prop_assert_eq!(id.is_some(), !up.is_empty());
            prop_assert!(up.is_empty() || up.contains(&id.0));
        }
    }

    #[test]
    fn every_slots_owner_claims_it_and_a_live_claimant_goes_first(
        workers in prop::collection::vec(any_worker(), 0..12),
    ) {
        let tables = tables(&workers);
        for (slot, owner) in (0u16..).zip(tables.slots.iter()) {
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
    let vips = tables.rules.unwrap().vips.clone();
    assert_eq!(vips.len(), 2);
    let address = "10.99.0.1".parse().unwrap();
    let mark = vips[&AnyVipKey::address_mark(address)];
    assert_eq!(mark.kind, VipKind::Address as u8);
    let port = vips[&AnyVipKey::new(address, 9000, 17)];
    assert_eq!(port.kind, VipKind::Rpc as u8);
}

#[test]
fn a_pool_has_a_table_of_its_workers_alone_and_weights_count() {
    let worker = Worker {
        is_alive: true,
        is_drained: false,
        is_reachable: true,
        slots: (0, 0),
        warm: Vec::new(),
        in_flight: 0,
    };
    let (membership, loads) = build(&vec![worker; 4]);
    let rules = rules(
        r#"
        [[pool]]
        name = "blue"
        workers = ["w1", "w2", "w9"]
        [[vip]]
        address = "2001:db8::1"
        port = "any"
        kind = "l4"
        pool = "blue"
        [[worker]]
        name = "w2"
        address = "10.80.0.2"
        mac = "02:00:00:00:01:02"
        weight = 512
        "#,
    );
    let tables = desired_of(&membership, &loads, &rules, None);
    let share = |pool: usize, id: u16| {
        let table = tables.homes[pool].as_ref().unwrap();
        table.iter().filter(|worker| worker.0 == id).count()
    };
    assert_eq!(share(1, 0) + share(1, 3), 0);
    assert!((share(1, 2) as i64 - 2 * share(1, 1) as i64).abs() < 4);
    assert!((share(0, 2) as i64 - 2 * share(0, 0) as i64).abs() < 4);
    let row = tables.rules.unwrap().vips[&AnyVipKey::new("2001:db8::1".parse().unwrap(), 0, 17)];
    assert_eq!((row.pool, row.kind()), (1, Some(VipKind::L4)));
    assert_eq!(tables.workers[&WorkerId(2)].weight, 512);
}

#[test]
fn pools_and_vips_keep_their_numbers_when_others_come_and_go() {
    let file = |names: &[&str]| PolicyFile {
        pools: names
            .iter()
            .map(|name| crate::config::PoolConfig {
                name: (*name).to_owned(),
                workers: vec!["w".to_owned()],
            })
            .collect(),
        ..PolicyFile::default()
    };
    let first = pool_numbers(&file(&["a", "b"]), &PoolNumbers::new());
    assert_eq!((first["a"], first["b"]), (1, 2));
    let second = pool_numbers(&file(&["c", "b"]), &first);
    assert_eq!((second["b"], second["c"]), (2, 3), "1 was a's a moment ago");
    assert_eq!(pool_numbers(&file(&["d", "b"]), &second)["d"], 1);
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
    let tables = desired_of(&membership, &loads, &rules(""), None);
    assert_eq!(tables.functions, None);
}
