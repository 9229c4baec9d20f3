//! Random tables, and random frames that mostly fit them: good packets with fields drawn from the tables, half of which
//! are then damaged. Both versions of IP, tags, options, extension headers and fragments; every kind of VIP and every way
//! to a worker; police on and off; schemas; ICMP errors.

mod damage;
mod frames;
mod rpc;

use std::net::IpAddr;

use ebpf_common::{
    ids::{FunctionId, SlotId, WorkerId},
    limits::{HOME_PROBES, MAGLEV_TABLE_LEN, MAX_PKTGEN},
    maps::{
        Affinity, Config, ForwardMode, FunctionEntry, PktgenInfo, Rate, VipInfo, VipKey, VipKind,
        WorkerInfo, WorkerLoad, WorkerState, features, home_index, worker_flags,
    },
    schema::{SchemaEntry, SchemaTarget},
};
use prog_tests::program::WORKERS_LEN;
use rand::{
    Rng as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use xdp_balancer::testing::{
    FakeTables,
    frame::{VIP, VIP6},
};

const FUNCTIONS: u64 = 16;
const SESSIONS: u64 = 40;
const WORKERS: u16 = 20;
const SCHEMAS: u16 = 6;
/// Sources, half of them of IPv6; some are in a block list.
const CLIENTS: u8 = 12;
/// An address whose mark is missing, as while a VIP is being made.
const UNMARKED_VIP: [u8; 4] = [10, 99, 0, 3];
const NO_VIP: [u8; 4] = [10, 99, 0, 4];
/// The first port of the VIPs of each kind.
const PORTS: [(VipKind, u16); 5] = [
    (VipKind::Rpc, 9_000),
    (VipKind::L4, 9_100),
    (VipKind::Quic, 9_200),
    (VipKind::Pktgen, 9_300),
    (VipKind::Load, 9_400),
];
/// VIPs of each kind on one address: one for each way to a worker.
const VIPS_PER_KIND: u16 = 3;

/// A VIP, as frames are sent to it.
#[derive(Debug, Clone, Copy)]
struct Vip {
    address: IpAddr,
    port: u16,
    kind: VipKind,
    info: VipInfo,
}

/// Tables, and what is drawn from them.
pub(crate) struct World {
    pub(crate) tables: FakeTables,
    slots: Vec<SlotId>,
    vips: Vec<Vip>,
    clients: Vec<IpAddr>,
}

impl World {
    /// Random tables. `port` is another interface than that of arrival, and is in `PORTS`.
    pub(crate) fn random(rng: &mut StdRng, port: u32) -> Self {
        let mut tables = FakeTables {
            config: FakeTables::default().config.map(|base| config(rng, base)),
            ..FakeTables::default()
        };
        let vips = add_vips(&mut tables, rng);
        tables.ports.insert(port);
        for worker in 0..WORKERS {
            add_worker(&mut tables, rng, worker, port);
        }
        add_schemas(&mut tables, rng);
        for function in 1..=FUNCTIONS {
            add_function(&mut tables, rng, FunctionId(function));
        }
        add_homes(&mut tables, rng);
        tables.pktgen = (0..MAX_PKTGEN).map(|_| pktgen(rng)).collect();
        // As many as surely find room.
        let sessions = tables.config.map_or(0, |config| config.session_mask);
        for session in 0..(SESSIONS / 2).min(u64::from(sessions)) {
            // Some of them on workers that take no more: those must move.
            let function = FunctionId(rng.random_range(1..=FUNCTIONS));
            let worker = any_worker(rng);
            tables.set_session(function, session, worker);
        }
        let slots: Vec<_> = (0..50)
            .map(|_| SlotId(rng.random_range(0..16_384)))
            .collect();
        for slot in &slots {
            let worker = any_worker(rng);
            tables.set_slot(*slot, worker);
        }
        let clients = add_clients(&mut tables, rng);
        Self {
            tables,
            slots,
            vips,
            clients,
        }
    }
}

/// No world lives as long as its interval: what is admitted is the burst and nothing more, however fast the world is run.
fn once_an_age(burst: u64) -> Rate {
    Rate {
        interval_ns: 1 << 50,
        tolerance_ns: (burst - 1) << 50,
    }
}

/// Police is off in half of the worlds; in the others each of its parts is on or off.
fn config(rng: &mut StdRng, base: Config) -> Config {
    let mut config = Config {
        generation: rng.random_range(0..4),
        key_epoch: rng.random_range(0..256),
        cookie_keys: rng.random(),
        token_keys: rng.random(),
        load_keys: rng.random(),
        table_secret: rng.random(),
        home_bound: *[0, 256, 2_000].choose(rng).unwrap(),
        source_rate: once_an_age(rng.random_range(20..1_000)),
        unknown_rate: once_an_age(rng.random_range(20..500)),
        answer_rate: once_an_age(rng.random_range(20..500)),
        eviction_rate: once_an_age(rng.random_range(1..100)),
        shed_percent: rng.random_range(10..150),
        ..base
    };
    let police = features::BLOCK_LIST
        | features::SOURCE_RATE
        | features::FUNCTION_RATE
        | features::ADDRESS_TOKENS
        | features::SHED
        | features::ANSWER_RATE
        | features::EVICTION_RATE;
    if rng.random() {
        config.features = police & rng.random::<u32>();
    }
    // Small tables, in which one entry pushes another one out.
    if rng.random_ratio(1, 3) {
        config.session_mask = 3;
        config.flow_mask = 15;
    }
    if rng.random_ratio(1, 6) {
        config.features |= features::KEEP_HOP_LIMIT;
    }
    if rng.random_ratio(1, 16) {
        config.tunnel_v4 = [0; 4];
    }
    if rng.random_ratio(1, 16) {
        config.tunnel_v6 = [0; 16];
    }
    config
}

/// VIPs of all kinds by all ways on an address of each version of IP, and one that takes any port.
fn add_vips(tables: &mut FakeTables, rng: &mut StdRng) -> Vec<Vip> {
    let mut vips = Vec::new();
    let mut vip_id = 0;
    for (kind, first_port) in PORTS {
        for (nth, mode) in
            (0..VIPS_PER_KIND).zip([ForwardMode::L2, ForwardMode::Ipip, ForwardMode::Gue])
        {
            let info = VipInfo {
                forward: mode as u8,
                pool: rng.random_range(0..3),
                quic_config: rng.random_range(0..8),
                pktgen: rng.random_range(0..MAX_PKTGEN as u16),
                ..VipInfo::new(vip_id, kind)
            };
            vip_id += 1;
            let port = first_port + nth;
            for protocol in protocols(kind) {
                tables.add_vip_of(VIP, port, *protocol, info);
                tables.add_vip6_of(VIP6, port, *protocol, info);
            }
            for address in [VIP.into(), VIP6.into()] {
                vips.push(Vip {
                    address,
                    port,
                    kind,
                    info,
                });
            }
        }
    }
    let any_port = VipInfo::new(vip_id, VipKind::L4);
    tables.add_vip_of(VIP, 0, 17, any_port);
    tables.add_vip6_of(VIP6, 0, 6, any_port);
    tables.add_vip(UNMARKED_VIP, PORTS[0].1);
    let unmarked = VipKey::address_mark(UNMARKED_VIP);
    tables.vips.remove(&unmarked);
    vips
}

/// The protocols that a VIP of `kind` has.
const fn protocols(kind: VipKind) -> &'static [u8] {
    match kind {
        VipKind::L4 | VipKind::Quic => &[17, 6],
        _ => &[17],
    }
}

fn add_worker(tables: &mut FakeTables, rng: &mut StdRng, worker: u16, port: u32) {
    let state = *[
        WorkerState::Up,
        WorkerState::Up,
        WorkerState::Up,
        WorkerState::Draining,
        WorkerState::Down,
        WorkerState::Absent,
    ]
    .choose(rng)
    .unwrap();
    let mut info = tables.add_worker(worker, state);
    info.ifindex = *[0, 0, 0, 1, 1, port, port, port, port, 4_000]
        .choose(rng)
        .unwrap();
    info.dst_mac[..4].copy_from_slice(&rng.random::<[u8; 4]>());
    info.src_mac = rng.random();
    info.weight = *[1, 128, 256, 256, 1_000].choose(rng).unwrap();
    info.cap = *[0, 0, 5, 1_000].choose(rng).unwrap();
    info.mtu = *[0, 0, 200, 1_400, 9_000].choose(rng).unwrap();
    if rng.random() {
        info.flags |= worker_flags::OUTER_V6;
    }
    if rng.random_ratio(1, 20) {
        info = WorkerInfo {
            addr4: [0; 4],
            addr6: [0; 16],
            ..info
        };
    }
    tables.workers.insert(WorkerId(worker), info);
    let load = WorkerLoad {
        sequence: *[0, 0, 3, 1 << 40].choose(rng).unwrap(),
        sent: rng.random_range(0..100),
        sent_at_report: rng.random_range(0..100),
        ..WorkerLoad::new(rng.random_range(0..12), rng.random_range(0..5_000))
    };
    tables.loads.get_mut().insert(WorkerId(worker), load);
}

/// One of each kind for each target, and one of noise, as userspace should never write it.
fn add_schemas(tables: &mut FakeTables, rng: &mut StdRng) {
    let (session, slot) = (SchemaTarget::Session, SchemaTarget::Slot);
    let noise = SchemaEntry {
        kind: rng.random_range(0..5),
        target: rng.random_range(0..4),
        len: rng.random(),
        offset: rng.random_range(0..300),
        size: rng.random_range(0..300),
        path: rng.random(),
        ..SchemaEntry::EMPTY
    };
    tables.schemas = vec![
        SchemaEntry::json(session, "user").unwrap(),
        SchemaEntry::json(slot, "key").unwrap(),
        SchemaEntry::protobuf(session, &[1]).unwrap(),
        SchemaEntry::protobuf(slot, &[2, 3]).unwrap(),
        SchemaEntry::fixed(slot, rng.random_range(0..20), rng.random_range(1..12)).unwrap(),
        noise,
    ];
}

fn add_function(tables: &mut FakeTables, rng: &mut StdRng, function: FunctionId) {
    let affinity = *[Affinity::None, Affinity::Session, Affinity::Shard]
        .choose(rng)
        .unwrap();
    let mut warm: Vec<_> = (0..WORKERS).map(WorkerId).collect();
    warm.shuffle(rng);
    warm.truncate(rng.random_range(0..=16));
    let mut entry = FunctionEntry::new(affinity, &warm);
    if rng.random_ratio(1, 3) {
        // One more than there are: a row of zeros.
        entry.schema = rng.random_range(1..=SCHEMAS + 1);
    }
    if rng.random_ratio(1, 8) {
        // Codes and lengths that userspace should never write.
        entry.warm_len = rng.random();
        entry.affinity = rng.random();
    }
    tables.functions.insert(function, entry);
    if rng.random_ratio(1, 4) {
        let rate = once_an_age(rng.random_range(1..300));
        tables.police.limit(function, rate);
    }
}

/// Each function's own probes in pool 0, and about a third of the entries of the first three pools.
fn add_homes(tables: &mut FakeTables, rng: &mut StdRng) {
    let generation = tables.generation();
    for pool in 0..3 {
        for _ in 0..MAGLEV_TABLE_LEN / 3 {
            let index = home_index(generation, pool, rng.random(), 0);
            let worker = any_worker(rng);
            tables.home.insert(index, worker);
        }
    }
    for function in 1..=FUNCTIONS {
        let home: Vec<_> = (0..HOME_PROBES).map(|_| any_worker(rng)).collect();
        tables.set_home(FunctionId(function), &home);
    }
}

fn pktgen(rng: &mut StdRng) -> PktgenInfo {
    let mut functions = [0; 16];
    functions.fill_with(|| rng.random_range(0..=FUNCTIONS + 1));
    PktgenInfo {
        functions_len: 1 << rng.random_range(0..=4),
        sessions: *[0, 1, 16, 1 << 20].choose(rng).unwrap(),
        functions,
    }
}

/// Sources of both versions of IP, and prefixes that block some of them.
fn add_clients(tables: &mut FakeTables, rng: &mut StdRng) -> Vec<IpAddr> {
    let mut clients: Vec<IpAddr> = Vec::new();
    for nth in 0..CLIENTS / 2 {
        clients.push([10, 80, nth, rng.random()].into());
        let mut v6: [u8; 16] = rng.random();
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, nth]);
        clients.push(v6.into());
    }
    tables.police.block4([10, 80, 1, 0], 24);
    tables.police.block4([10, 80, 2, 128], 25);
    tables.police.block4([10, 90, 0, 0], 16);
    let mut prefix = [0; 16];
    prefix[..4].copy_from_slice(&[0x20, 1, 0xd, 1]);
    tables.police.block6(prefix, 32);
    prefix[..4].copy_from_slice(&[0x20, 1, 0xd, 2]);
    prefix[4] = 0x80;
    tables.police.block6(prefix, 33);
    clients
}

/// Mostly one that is there; sometimes none, or one beyond the table.
fn any_worker(rng: &mut StdRng) -> WorkerId {
    match rng.random_range(0..20) {
        0 => WorkerId::NONE,
        1 => WorkerId(WORKERS_LEN as u16),
        _ => WorkerId(rng.random_range(0..WORKERS)),
    }
}
