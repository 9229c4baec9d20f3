//! Random tables, and random frames that mostly fit them: good requests with fields drawn from the tables,
//! half of which are then damaged.

use ebpf_common::{
    cookie::CookieScope,
    ids::{FunctionId, SlotId, WorkerId},
    limits::{HOME_PROBES, MAX_FRAGMENTS},
    maps::{Affinity, Config, FunctionEntry, VipKey, WorkerState},
    wire::{Kind, RpcHeader, flags},
};
use prog_tests::program::WORKERS_LEN;
use rand::{
    Rng as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use xdp_balancer::testing::{
    FakeTables,
    frame::{Frame, RPC_OFFSET, UDP_OFFSET, VIP, VIP_PORT},
};

const FUNCTIONS: u64 = 12;
const SESSIONS: u64 = 40;
const WORKERS: u16 = 20;
const OTHER_VIP: [u8; 4] = [10, 99, 0, 2];
const UNMARKED_VIP: [u8; 4] = [10, 99, 0, 3];
const NO_VIP: [u8; 4] = [10, 99, 0, 4];

/// Tables, and what is drawn from them.
pub(crate) struct World {
    pub(crate) tables: FakeTables,
    slots: Vec<SlotId>,
}

impl World {
    /// Random tables. `port` is another interface than that of arrival, and is in `PORTS`.
    pub(crate) fn random(rng: &mut StdRng, port: u32) -> Self {
        let mut tables = FakeTables {
            config: FakeTables::default().config.map(|config| Config {
                generation: rng.random_range(0..4),
                key_epoch: rng.random_range(0..256),
                cookie_keys: rng.random(),
                table_secret: rng.random(),
                ..config
            }),
            ..FakeTables::default()
        };
        tables.add_vip(VIP, VIP_PORT);
        tables.add_vip(OTHER_VIP, VIP_PORT + 1);
        tables.add_vip(UNMARKED_VIP, VIP_PORT);
        let unmarked = VipKey::address_mark(UNMARKED_VIP);
        tables.vips.remove(&unmarked);
        tables.ports.insert(port);
        for worker in 0..WORKERS {
            add_worker(&mut tables, rng, worker, port);
        }
        for function in 1..=FUNCTIONS {
            add_function(&mut tables, rng, FunctionId(function));
        }
        for session in 0..SESSIONS / 2 {
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
        Self { tables, slots }
    }

    /// A random frame, at least 14 bytes long.
    pub(crate) fn frame(&self, rng: &mut StdRng) -> Vec<u8> {
        let payload_len = match rng.random_range(0..20) {
            0 => rng.random_range(0..1_329),
            _ => rng.random_range(0..40),
        };
        let mut frame = Frame::rpc(self.header(rng), &vec![0x5a; payload_len]);
        if rng.random_ratio(1, 10) {
            frame.destination = (*[OTHER_VIP, UNMARKED_VIP, NO_VIP].choose(rng).unwrap()).into();
            frame.port = VIP_PORT + rng.random_range(0..2);
        }
        if rng.random_ratio(1, 10) {
            frame.options = vec![1; rng.random_range(0..=10) * 4];
        }
        if rng.random_ratio(1, 40) {
            frame
                .datagram
                .truncate(rng.random_range(0..frame.datagram.len()));
        }
        frame.more_fragments = rng.random_ratio(1, 100);
        if rng.random_ratio(1, 100) {
            frame.fragment_offset = rng.random_range(0..8_192);
        }
        let mut bytes = frame.bytes();
        if rng.random() {
            damage(&mut bytes, rng);
        }
        bytes
    }

    fn header(&self, rng: &mut StdRng) -> RpcHeader {
        // One in thirteen is not deployed.
        let function = FunctionId(rng.random_range(1..=FUNCTIONS + 1));
        let mut header = RpcHeader {
            kind: if rng.random_ratio(1, 20) {
                Kind::Ping
            } else {
                Kind::Request
            },
            session_id: rng.random_range(0..SESSIONS),
            slot: *self.slots.choose(rng).unwrap(),
            budget_ms: rng.random(),
            token: rng.random(),
            ..RpcHeader::request(function, rng.random())
        };
        if rng.random_ratio(1, 10) {
            let count = rng.random_range(1..=MAX_FRAGMENTS);
            header = header.with_fragment(rng.random_range(0..count), count);
        }
        for flag in [
            flags::HAS_SESSION,
            flags::HAS_SLOT,
            flags::HAS_COOKIE,
            flags::HAS_TOKEN,
            flags::IDEMPOTENT,
            flags::RETRANSMIT,
            flags::RESUME,
        ] {
            if rng.random_ratio(2, 5) {
                header.flags |= flag;
            }
        }
        header.route_cookie = self.cookie(rng, &header);
        header
    }

    /// Good, of the epoch before, of epochs that are over, forged by one bit, or noise.
    fn cookie(&self, rng: &mut StdRng, header: &RpcHeader) -> u64 {
        let mut keys = self.tables.config.unwrap().cookie_keys();
        let session = if header.has(flags::HAS_SESSION) {
            header.session_id
        } else {
            0
        };
        let scope = CookieScope {
            function: header.function,
            session,
        };
        let choice = rng.random_range(0..8);
        keys.epoch = keys.epoch.wrapping_sub(match choice {
            0 => rng.random_range(2..255),
            1 => 1,
            _ => 0,
        });
        let cookie = keys.seal(any_worker(rng), scope);
        match choice {
            2 => cookie ^ (1 << rng.random_range(0..64)),
            3 => rng.random(),
            _ => cookie,
        }
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
    info.ifindex = *[0, 1, port, port, 4_000].choose(rng).unwrap();
    info.dst_mac[..4].copy_from_slice(&rng.random::<[u8; 4]>());
    info.src_mac = rng.random();
    tables.workers.insert(WorkerId(worker), info);
    tables.set_load(worker, rng.random_range(0..12), rng.random_range(0..12));
}

fn add_function(tables: &mut FakeTables, rng: &mut StdRng, function: FunctionId) {
    let affinity = *[Affinity::None, Affinity::Session, Affinity::Shard]
        .choose(rng)
        .unwrap();
    let mut warm: Vec<_> = (0..WORKERS).map(WorkerId).collect();
    warm.shuffle(rng);
    warm.truncate(rng.random_range(0..=16));
    let mut entry = FunctionEntry::new(affinity, &warm);
    if rng.random_ratio(1, 8) {
        // Codes and lengths that userspace should never write.
        entry.warm_len = rng.random();
        entry.affinity = rng.random();
    }
    tables.functions.insert(function, entry);
    let home: Vec<_> = (0..HOME_PROBES).map(|_| any_worker(rng)).collect();
    tables.set_home(function, &home);
}

/// Mostly one that is there; sometimes none, or one beyond the table.
fn any_worker(rng: &mut StdRng) -> WorkerId {
    match rng.random_range(0..20) {
        0 => WorkerId::NONE,
        1 => WorkerId(WORKERS_LEN as u16),
        _ => WorkerId(rng.random_range(0..WORKERS)),
    }
}

/// One to four faults, most of them in the headers.
fn damage(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..=4) {
        match rng.random_range(0..12) {
            0 => bytes.truncate(rng.random_range(14..=bytes.len())),
            1 => bytes.extend(std::iter::repeat_n(0xee, rng.random_range(1..60))),
            2 => step(bytes, 16, rng),
            3 => step(bytes, UDP_OFFSET + 4, rng),
            4 => step(bytes, RPC_OFFSET + 46, rng),
            5 => poke(bytes, *[12, 14, 20, 23, 26, 33].choose(rng).unwrap(), rng),
            6..10 => poke(bytes, RPC_OFFSET + rng.random_range(0..64), rng),
            _ => poke(bytes, rng.random_range(0..120), rng),
        }
    }
}

/// Sets one byte to anything, or flips one of its bits.
fn poke(bytes: &mut [u8], at: usize, rng: &mut StdRng) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = if rng.random() {
            rng.random()
        } else {
            *byte ^ (1 << rng.random_range(0..8))
        };
    }
}

/// Moves a 16-bit length by a little: the lies that are nearly true.
fn step(bytes: &mut [u8], at: usize, rng: &mut StdRng) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        let value = u16::from_be_bytes([field[0], field[1]]);
        let moved = value.wrapping_add_signed(rng.random_range(-70..70));
        field.copy_from_slice(&moved.to_be_bytes());
    }
}
