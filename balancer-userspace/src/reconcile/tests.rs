//! Properties of the plan over random tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ebpf_common::{
    ids::{FunctionId, SlotId},
    limits::HOME_PROBES,
    maps::{Affinity, FunctionEntry, VipInfo, VipKey, VipKind, WorkerLoad, home_index},
};
use proptest::prelude::*;

use super::*;
use crate::policy::maglev;

const FUNCTIONS: u64 = 6;
const WORKERS: u16 = 6;

#[derive(Debug, Clone)]
struct Scene {
    states: Vec<WorkerState>,
    /// Affinity and warm candidates, by function; none if it is not deployed.
    functions: Vec<Option<(Affinity, Vec<u16>)>>,
    /// Owner of each of six equal parts of the slots.
    owners: Vec<u16>,
    in_flight: Vec<u32>,
    ports: BTreeSet<u32>,
    has_vip: bool,
}

fn any_state() -> impl Strategy<Value = WorkerState> {
    prop_oneof![
        1 => Just(WorkerState::Absent),
        4 => Just(WorkerState::Up),
        2 => Just(WorkerState::Draining),
        2 => Just(WorkerState::Down),
    ]
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let warm = prop::collection::vec(0..WORKERS, 0..4);
    let affinity = Just([Affinity::None, Affinity::Session, Affinity::Shard]);
    let function = prop::option::weighted(0.8, (affinity, 0..3usize, warm))
        .prop_map(|function| function.map(|(all, n, warm)| (all[n], warm)));
    (
        prop::collection::vec(any_state(), usize::from(WORKERS)),
        prop::collection::vec(function, FUNCTIONS as usize),
        prop::collection::vec(0..WORKERS + 1, 6),
        prop::collection::vec(0u32..40, usize::from(WORKERS)),
        prop::collection::btree_set(1u32..5, 1..3),
        any::<bool>(),
    )
        .prop_map(
            |(states, functions, owners, in_flight, ports, has_vip)| Scene {
                states,
                functions,
                owners,
                in_flight,
                ports,
                has_vip,
            },
        )
}

fn tables(scene: &Scene) -> DesiredTables {
    let state = |id: u16| scene.states[usize::from(id)];
    let names: Vec<String> = (0..WORKERS).map(|id| format!("w{id}")).collect();
    let up: Vec<(&str, WorkerId)> = (0..WORKERS)
        .filter(|id| state(*id) == WorkerState::Up)
        .map(|id| (names[usize::from(id)].as_str(), WorkerId(id)))
        .collect();
    let owner = |slot: u32| match scene.owners[(slot * 6 / SLOTS) as usize] {
        id if id < WORKERS && state(id) != WorkerState::Absent => WorkerId(id),
        _ => WorkerId::NONE,
    };
    let function = |(id, function): (u64, &Option<(Affinity, Vec<u16>)>)| {
        let (affinity, warm) = function.as_ref()?;
        let mut warm: Vec<WorkerId> = warm.iter().copied().map(WorkerId).collect();
        warm.retain(|id| state(id.0) == WorkerState::Up);
        warm.sort_unstable();
        warm.dedup();
        Some((id, FunctionEntry::new(*affinity, &warm)))
    };
    let mut vips = HashMap::new();
    if scene.has_vip {
        vips.insert(
            VipKey::new([10, 99, 0, 1], 9000, 17),
            VipInfo::new(0, VipKind::Rpc),
        );
    }
    DesiredTables {
        vips,
        workers: (0..WORKERS)
            .filter(|id| state(*id) != WorkerState::Absent)
            .map(|id| {
                let info = WorkerInfo {
                    ifindex: *scene.ports.first().unwrap(),
                    state: state(id) as u8,
                    ..WorkerInfo::ABSENT
                };
                (WorkerId(id), info)
            })
            .collect(),
        loads: (0..WORKERS)
            .map(|id| {
                let load = WorkerLoad {
                    in_flight: scene.in_flight[usize::from(id)],
                    capacity: 32,
                };
                (WorkerId(id), load)
            })
            .collect::<BTreeMap<_, _>>(),
        functions: Some((0..).zip(&scene.functions).filter_map(function).collect()),
        slots: (0..SLOTS).map(owner).collect(),
        home: maglev::table(&up),
        ports: scene.ports.clone(),
    }
}

fn run(actual: &mut ActualTables, desired: &DesiredTables) {
    for write in plan(desired, actual) {
        actual.apply(&write);
    }
}

/// A request, and in `held` the worker that its cookie or session names.
#[derive(Debug, Clone, Copy)]
struct Packet {
    function: u64,
    slot: SlotId,
    held: Option<u16>,
    pick: usize,
}

/// The rules as the contract has them, written down a second time.
fn route(tables: &ActualTables, packet: Packet) -> Option<WorkerId> {
    let row = |id: u16| tables.workers.get(usize::from(id)).copied();
    let takes_existing = |id: &u16| row(*id).is_some_and(|info| info.takes_existing_work());
    let takes_new = |id: &u16| row(*id).is_some_and(|info| info.takes_new_work());
    if let Some(held) = packet.held.filter(takes_existing) {
        return Some(WorkerId(held));
    }
    let entry = tables.functions.get(&packet.function)?;
    if entry.affinity() == Affinity::Shard {
        let owner = tables.owner(packet.slot).0;
        return Some(owner).filter(takes_existing).map(WorkerId);
    }
    let warm = &entry.warm[..usize::from(entry.warm_len)];
    let two = (0..warm.len().min(2)).map(|n| warm[(packet.pick + n) % warm.len()]);
    let is_free = |id: &u16| !tables.loads[usize::from(*id)].is_full();
    if let Some(id) = two.filter(takes_new).find(is_free) {
        return Some(WorkerId(id));
    }
    (0..HOME_PROBES)
        .map(|probe| {
            let index = home_index(tables.config.generation, FunctionId(packet.function), probe);
            tables.home[index as usize].0
        })
        .find(takes_new)
        .map(WorkerId)
}

fn any_packet() -> impl Strategy<Value = Packet> {
    (
        0..FUNCTIONS,
        0..SLOTS as u16,
        prop::option::of(0..WORKERS),
        0usize..8,
    )
        .prop_map(|(function, slot, held, pick)| Packet {
            function,
            slot: SlotId(slot),
            held,
            pick,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn after_all_writes_the_maps_hold_what_they_should(scenes in prop::collection::vec(any_scene(), 1..5)) {
        let mut actual = ActualTables::fresh();
        for scene in &scenes {
            let desired = tables(scene);
            run(&mut actual, &desired);
            prop_assert_eq!(plan(&desired, &actual), []);

            let live = actual.config.generation;
            prop_assert_eq!(actual.slots_of(live), &desired.slots);
            prop_assert_eq!(actual.home_of(live), &desired.home);
            prop_assert_eq!(&actual.vips, &desired.vips);
            prop_assert_eq!(&actual.ports, &desired.ports);
            let functions: BTreeMap<_, _> = actual.functions.clone().into_iter().collect();
            prop_assert_eq!(Some(functions), desired.functions);
            for (id, info) in (0..).map(WorkerId).zip(&actual.workers) {
                prop_assert_eq!(info, desired.workers.get(&id).unwrap_or(&WorkerInfo::ABSENT));
            }
        }
    }

    #[test]
    fn no_prefix_of_the_writes_leaves_a_packet_without_a_route(
        before in any_scene(),
        mut after in any_scene(),
        packets in prop::collection::vec(any_packet(), 40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        // The one exception that the module states: affinities do not change along with tables.
        for (old, new) in before.functions.iter().zip(&mut after.functions) {
            if let (Some((old, _)), Some((new, _))) = (old, new) {
                *new = *old;
            }
        }
        let mut actual = ActualTables::fresh();
        run(&mut actual, &tables(&before));
        let desired = tables(&after);
        let writes = plan(&desired, &actual);
        let mut end = actual.clone();
        writes.iter().for_each(|write| end.apply(write));

        let is_dead = |id: WorkerId| {
            desired.workers.get(&id).is_none_or(|info| info.state() == WorkerState::Down)
        };
        let claims: Vec<Packet> = packets
            .into_iter()
            .filter(|packet| {
                route(&actual, *packet).is_some_and(|id| !is_dead(id))
                    && route(&end, *packet).is_some()
            })
            .collect();
        // Every prefix matters, but between two writes to a standby copy nothing can change: look
        // after each other write, and at some of those.
        let looked_at: BTreeSet<usize> = cuts.iter().map(|cut| cut.index(writes.len().max(1))).collect();
        for (number, write) in writes.iter().enumerate() {
            actual.apply(write);
            let is_table = matches!(write, MapWrite::Home(..) | MapWrite::Slot(..));
            if is_table && !looked_at.contains(&number) {
                continue;
            }
            for packet in &claims {
                prop_assert!(route(&actual, *packet).is_some(), "{packet:?} after write {number}, {write:?}");
            }
        }
    }

    #[test]
    fn an_abandoned_plan_is_finished_by_the_next(
        scenes in prop::collection::vec(any_scene(), 2..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut actual = ActualTables::fresh();
        for scene in &scenes {
            let writes = plan(&tables(scene), &actual);
            let done = cut.index(writes.len() + 1);
            writes[..done].iter().for_each(|write| actual.apply(write));
        }
        let last = tables(scenes.last().unwrap());
        run(&mut actual, &last);
        prop_assert_eq!(plan(&last, &actual), []);
    }

    #[test]
    fn a_standby_copy_is_written_only_where_it_differs(before in any_scene(), after in any_scene()) {
        let mut actual = ActualTables::fresh();
        run(&mut actual, &tables(&before));
        run(&mut actual, &tables(&after));
        // Both copies are known now: going back to the first scene costs no table write at all.
        let back = plan(&tables(&before), &actual);
        let is_table = |write: &&MapWrite| matches!(write, MapWrite::Home(..) | MapWrite::Slot(..));
        let changed = tables(&before).slots != tables(&after).slots
            || tables(&before).home != tables(&after).home;
        prop_assert!(!changed || back.iter().filter(is_table).count() == 0);
    }
}

#[test]
fn a_dead_worker_is_the_first_thing_written() {
    let scene = Scene {
        states: vec![WorkerState::Up; usize::from(WORKERS)],
        functions: vec![Some((Affinity::None, vec![0, 1])); FUNCTIONS as usize],
        owners: vec![0, 1, 2, 3, 4, 5],
        in_flight: vec![0; usize::from(WORKERS)],
        ports: BTreeSet::from([2]),
        has_vip: true,
    };
    let mut actual = ActualTables::fresh();
    run(&mut actual, &tables(&scene));
    let mut without = scene;
    without.states[0] = WorkerState::Down;
    let writes = plan(&tables(&without), &actual);
    assert!(matches!(writes[0], MapWrite::Worker(WorkerId(0), _)));
}
