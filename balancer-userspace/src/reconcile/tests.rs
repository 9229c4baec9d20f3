//! Properties of the plan over random tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ebpf_common::{
    cookie::CookieScope,
    ids::{FunctionId, SlotId},
    maps::{Affinity, FunctionEntry, NORMAL_WEIGHT, Rate, VipInfo, VipKind},
    wire::{RpcHeader, flags},
};
use proptest::prelude::*;
use tables::{AnyVipKey, vip_filter};
use xdp_balancer::{
    Verdict, balance,
    testing::{
        FakeTables, HostPacket,
        frame::{Frame, VIP, VIP_PORT},
    },
};

use super::*;
use crate::policy::{Rules, maglev};

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
    let mut rules = Rules::default();
    if scene.has_vip {
        let key = AnyVipKey::new("10.99.0.9".parse().unwrap(), 9000, 17);
        rules.vips.insert(key, VipInfo::new(0, VipKind::Rpc));
        rules.blocks.insert("192.0.2.0/24".parse().unwrap());
        rules.settings.features = 1;
        rules
            .limits
            .insert(FunctionId(7), Rate::new(100, 100).unwrap());
    }
    DesiredTables {
        rules: Some(Arc::new(rules)),
        workers: (0..WORKERS)
            .map(|id| {
                if state(id) == WorkerState::Absent {
                    return (WorkerId(id), WorkerInfo::ABSENT);
                }
                let info = WorkerInfo {
                    ifindex: *scene.ports.first().unwrap(),
                    state: state(id) as u8,
                    weight: NORMAL_WEIGHT,
                    // An ERROR goes back to the client, a request to one of these.
                    dst_mac: [2, 0, 0, 0, 1, id as u8],
                    ..WorkerInfo::ABSENT
                };
                (WorkerId(id), info)
            })
            .collect(),
        functions: Some((0..).zip(&scene.functions).filter_map(function).collect()),
        slots: Arc::new((0..SLOTS).map(owner).collect()),
        homes: vec![Some(Arc::new(maglev::table(&up)))],
        ports: scene.ports.clone(),
    }
}

fn run(actual: &mut ActualTables, desired: &DesiredTables) {
    for write in plan(desired, actual) {
        actual.apply(&write);
    }
}

/// A request, and the workers that its cookie and its session's entry name.
#[derive(Debug, Clone, Copy)]
struct Packet {
    function: u64,
    request_id: u64,
    slot: Option<u16>,
    cookie: Option<u16>,
    session: Option<u16>,
}

/// The tables as the program sees them, with a VIP of their own.
struct Mirror(FakeTables, Vec<u32>);

impl Mirror {
    fn new(actual: &ActualTables, in_flight: &[u32]) -> Self {
        let mut mirror = Self(FakeTables::default(), in_flight.to_vec());
        mirror.0.add_vip(VIP, VIP_PORT);
        mirror.set_generation(actual.config.generation);
        for (id, info) in (0..).zip(&actual.workers[..usize::from(WORKERS)]) {
            mirror.apply(&MapWrite::Worker(WorkerId(id), *info));
        }
        for (id, entry) in &actual.functions {
            mirror.apply(&MapWrite::Function(*id, *entry));
        }
        mirror.0.slots = (0..).zip(actual.slots.iter().copied()).collect();
        mirror.0.home = (0..).zip(actual.home.iter().copied()).collect();
        mirror.0.ports = actual.ports.clone();
        mirror
    }

    fn set_generation(&mut self, generation: u32) {
        self.0.config.as_mut().unwrap().generation = generation;
    }

    fn apply(&mut self, write: &MapWrite) {
        let tables = &mut self.0;
        match write {
            MapWrite::AddPort(ifindex) => drop(tables.ports.insert(*ifindex)),
            MapWrite::RemovePort(ifindex) => drop(tables.ports.remove(ifindex)),
            MapWrite::Worker(id, info) => drop(tables.workers.insert(*id, *info)),
            MapWrite::Function(id, entry) => drop(tables.functions.insert(FunctionId(*id), *entry)),
            MapWrite::RemoveFunction(id) => drop(tables.functions.remove(&FunctionId(*id))),
            MapWrite::Slot(index, owner) => drop(tables.slots.insert(*index, *owner)),
            MapWrite::Home(index, worker) => drop(tables.home.insert(*index, *worker)),
            MapWrite::Generation(generation) => self.set_generation(*generation),
            // The packets are for the mirror's own VIP.
            _ => {}
        }
    }

    /// Where the data plane's own code sends `packet`.
    fn route(&mut self, packet: Packet) -> Option<WorkerId> {
        let mut header = RpcHeader::request(FunctionId(packet.function), packet.request_id);
        if let Some(slot) = packet.slot {
            header.flags |= flags::HAS_SLOT;
            header.slot = SlotId(slot);
        }
        if packet.session.is_some() {
            header.flags |= flags::HAS_SESSION;
            header.session_id = 1;
        }
        if let Some(worker) = packet.cookie {
            let scope = CookieScope {
                function: header.function,
                session: header.session_id,
            };
            header.flags |= flags::HAS_COOKIE;
            let keys = self.0.config.unwrap().cookie_keys();
            header.route_cookie = keys.seal(WorkerId(worker), scope);
        }
        self.0
            .sessions
            .iter()
            .flatten()
            .for_each(|place| place.set(0));
        if let Some(worker) = packet.session {
            self.0.set_session(header.function, 1, WorkerId(worker));
        }
        // What is asked here is about tables: no packet changes the loads for the next one.
        for (id, in_flight) in (0..).zip(&self.1) {
            self.0.set_load(id, *in_flight, 32);
        }
        let mut frame = HostPacket::new(Frame::rpc(header, b"").bytes());
        let verdict = balance(&mut frame, &self.0);
        let workers = self.0.worker_counters.take();
        let is_sent =
            matches!(verdict, Verdict::Tx | Verdict::Redirect { .. }) && frame.bytes[4] == 1;
        workers.into_keys().next().filter(|_| is_sent)
    }
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let worker = || prop::option::of(0..WORKERS);
    let slot = prop::option::of(0..SLOTS as u16);
    (0..FUNCTIONS, any::<u64>(), slot, worker(), worker()).prop_map(
        |(function, request_id, slot, cookie, session)| Packet {
            function,
            request_id,
            slot,
            cookie,
            session,
        },
    )
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
            prop_assert_eq!(actual.slots_of(live), desired.slots.as_slice());
            prop_assert_eq!(actual.home_of(live, 0), desired.homes[0].as_ref().unwrap().as_slice());
            let rules = desired.rules.as_ref().unwrap();
            prop_assert_eq!(&actual.vips, &rules.vips);
            prop_assert_eq!(&actual.vip_filter, &vip_filter(rules.vips.keys()));
            prop_assert_eq!(&actual.blocks, &rules.blocks);
            prop_assert_eq!(&actual.block_filter, &rules::block_filter(&rules.blocks));
            prop_assert_eq!(&actual.limits, &rules.limits);
            prop_assert_eq!(actual.config.features, rules.settings.features);
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
        let mut mirror = Mirror::new(&actual, &after.in_flight);
        let mut end = actual.clone();
        writes.iter().for_each(|write| end.apply(write));
        let mut end = Mirror::new(&end, &after.in_flight);

        let is_dead = |id: WorkerId| {
            desired.workers.get(&id).is_none_or(|info| {
                matches!(info.state(), WorkerState::Down | WorkerState::Absent)
            })
        };
        let claims: Vec<Packet> = packets
            .into_iter()
            .filter(|packet| {
                mirror.route(*packet).is_some_and(|id| !is_dead(id)) && end.route(*packet).is_some()
            })
            .collect();
        // Every prefix matters, but between two writes to a standby copy nothing can change: look
        // after each other write, and at some of those.
        let looked_at: BTreeSet<usize> = cuts.iter().map(|cut| cut.index(writes.len().max(1))).collect();
        for (number, write) in writes.iter().enumerate() {
            mirror.apply(write);
            let is_table = matches!(write, MapWrite::Home(..) | MapWrite::Slot(..));
            if is_table && !looked_at.contains(&number) {
                continue;
            }
            for packet in &claims {
                prop_assert!(mirror.route(*packet).is_some(), "{packet:?} after write {number}, {write:?}");
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
            || tables(&before).homes != tables(&after).homes;
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

/// The ports of a plan in which those of `after` take the place of those of `before`; worker 0 is behind `named`.
fn port_writes(before: &BTreeSet<u32>, after: &BTreeSet<u32>, named: u32) -> Vec<MapWrite> {
    let mut actual = ActualTables::fresh();
    actual.ports.clone_from(before);
    actual.workers[0] = WorkerInfo {
        ifindex: named,
        state: WorkerState::Up as u8,
        ..WorkerInfo::ABSENT
    };
    let desired = DesiredTables {
        ports: after.clone(),
        ..tables(&Scene {
            states: vec![WorkerState::Up; usize::from(WORKERS)],
            functions: Vec::new(),
            owners: vec![WORKERS; 6],
            in_flight: Vec::new(),
            ports: after.clone(),
            has_vip: false,
        })
    };
    let is_port = |write: &MapWrite| {
        matches!(
            write,
            MapWrite::AddPort(_) | MapWrite::RemovePort(_) | MapWrite::Worker(WorkerId(0), _)
        )
    };
    let mut writes = plan(&desired, &actual);
    writes.retain(is_port);
    writes
}

#[test]
fn ports_that_leave_make_room_for_those_that_come_if_there_is_none_beside_them() {
    let ports = |range: std::ops::Range<u32>| range.collect::<BTreeSet<u32>>();
    let most = MAX_PORTS;
    // There is room: the old one goes when no row names it any more.
    let writes = port_writes(&ports(1..most), &ports(2..most + 1), 1);
    assert!(matches!(
        writes[..],
        [
            MapWrite::AddPort(_),
            MapWrite::Worker(..),
            MapWrite::RemovePort(1)
        ]
    ));
    // There is room for none of two: the one that a worker is behind goes last.
    let writes = port_writes(&ports(1..most), &ports(3..most + 2), 1);
    assert!(matches!(
        writes[..],
        [
            MapWrite::RemovePort(2),
            MapWrite::AddPort(_),
            MapWrite::AddPort(_),
            MapWrite::Worker(..),
            MapWrite::RemovePort(1)
        ]
    ));
    // All of a full map are exchanged, and it never holds more than it can.
    let mut held = ports(1..most + 1);
    for write in port_writes(&held.clone(), &ports(most + 1..2 * most + 1), 1) {
        match write {
            MapWrite::AddPort(port) => assert!(held.insert(port)),
            MapWrite::RemovePort(port) => assert!(held.remove(&port)),
            _ => {}
        }
        assert!(held.len() <= most as usize);
    }
    assert_eq!(held, ports(most + 1..2 * most + 1));
}
