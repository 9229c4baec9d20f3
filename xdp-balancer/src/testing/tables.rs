//! Tables of standard maps, which behave as the BPF maps do: a missing row of an array is one of zeros.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
};

use ebpf_common::{
    event::TraceEvent,
    hash::{TableHash, mix64, table_hash},
    ids::{FunctionId, WorkerId},
    limits,
    maps::{
        Config, Counter, CpuBucket, DecapRow, FunctionEntry, FunctionLimit, NORMAL_WEIGHT,
        PktgenInfo, Place, TopFunction, Traffic, Vip6Key, VipInfo, VipKey, VipKind, WorkerInfo,
        WorkerLoad, WorkerState, home_hash, home_index, row_index, slot_index, vip_filter_bit,
        vip6_filter_bit,
    },
    schema::{Key, SCAN_MAX, SchemaEntry},
    token::SourceAddress,
};

use super::{FakeTrace, police::PoliceTables};
use crate::{
    Packet, Row, Tables,
    route::{home, places},
};

/// Rows of `SESSIONS` and of `FLOWS` in a test.
pub const PLACE_ROWS: u32 = 1 << 10;

/// Rows of `FUNCTIONS` in a test.
pub const FUNCTION_ROWS: u32 = 1 << 10;

/// The tables. What userspace writes is plain; what the pipeline writes is in cells.
#[derive(Debug, Clone)]
pub struct FakeTables {
    /// `CONFIG`.
    pub config: Option<Config>,
    /// `VIPS`.
    pub vips: HashMap<VipKey, VipInfo>,
    /// `VIPS6`.
    pub vips6: HashMap<Vip6Key, VipInfo>,
    /// `VIP_FILTER`; [`Self::add_vip`] and [`Self::add_vip6`] set its bits.
    pub vip_filter: Vec<u64>,
    /// `WORKERS`.
    pub workers: BTreeMap<WorkerId, WorkerInfo>,
    /// `WORKER_LOAD`.
    pub loads: RefCell<BTreeMap<WorkerId, WorkerLoad>>,
    /// `FUNCTIONS`.
    pub functions: BTreeMap<FunctionId, FunctionEntry>,
    /// `SLOTS`, by index.
    pub slots: BTreeMap<u32, WorkerId>,
    /// Entries of `SLOTS`.
    pub slots_len: u32,
    /// `HOME`, by index.
    pub home: BTreeMap<u32, WorkerId>,
    /// Entries of `HOME`.
    pub home_len: u32,
    /// `SCHEMAS`.
    pub schemas: Vec<SchemaEntry>,
    /// `PKTGEN`.
    pub pktgen: Vec<PktgenInfo>,
    /// `BLOCK4`, `BLOCK6`, `BLOCK_FILTER`, and the buckets.
    pub police: PoliceTables,
    /// `DECAP`.
    pub decap: Option<DecapRow>,
    /// `PORTS`.
    pub ports: BTreeSet<u32>,
    /// `SESSIONS`.
    pub sessions: Vec<Row>,
    /// `FLOWS`.
    pub flows: Vec<Row>,
    /// The clock.
    pub now_ns: Cell<u64>,
    /// `COUNTERS`.
    pub counters: RefCell<BTreeMap<Counter, u64>>,
    /// `VIP_COUNTERS`.
    pub vip_counters: RefCell<BTreeMap<u32, Traffic>>,
    /// `WORKER_COUNTERS`.
    pub worker_counters: RefCell<BTreeMap<WorkerId, Traffic>>,
    /// `FUNCTION_COUNTERS`, by index.
    pub function_counters: RefCell<BTreeMap<u32, TopFunction>>,
    /// What a tracer has.
    pub trace: FakeTrace,
}

impl Default for FakeTables {
    fn default() -> Self {
        Self {
            config: Some(Config {
                key_epoch: 1,
                session_mask: PLACE_ROWS - 1,
                flow_mask: PLACE_ROWS - 1,
                function_mask: FUNCTION_ROWS - 1,
                tick_ns: 4_000_000,
                table_secret: [5, 6],
                cookie_keys: [[1, 2], [3, 4]],
                token_keys: [[7, 8], [9, 10]],
                load_keys: [[11, 12], [13, 14]],
                tunnel_v4: [172, 16, 0, 0],
                tunnel_v6: [0xfd, 0x16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                ..Config::ZERO
            }),
            vips: HashMap::new(),
            vips6: HashMap::new(),
            vip_filter: vec![0; (limits::VIP_FILTER_BITS / 64) as usize],
            workers: BTreeMap::new(),
            loads: RefCell::default(),
            functions: BTreeMap::new(),
            slots: BTreeMap::new(),
            slots_len: limits::GENERATIONS * limits::SLOTS,
            home: BTreeMap::new(),
            home_len: limits::GENERATIONS * limits::MAX_POOLS * limits::MAGLEV_TABLE_LEN,
            schemas: Vec::new(),
            pktgen: Vec::new(),
            police: PoliceTables::default(),
            decap: Some(DecapRow::ZERO),
            ports: BTreeSet::new(),
            sessions: rows(PLACE_ROWS),
            flows: rows(PLACE_ROWS),
            now_ns: Cell::new(1_000_000_000),
            counters: RefCell::default(),
            vip_counters: RefCell::default(),
            worker_counters: RefCell::default(),
            function_counters: RefCell::default(),
            trace: FakeTrace::default(),
        }
    }
}

fn rows(len: u32) -> Vec<Row> {
    (0..len).map(|_| Row::default()).collect()
}

impl FakeTables {
    /// Adds an RPC VIP, with the mark of its address.
    pub fn add_vip(&mut self, addr: [u8; 4], port: u16) {
        self.add_vip_of(addr, port, 17, VipInfo::new(0, VipKind::Rpc));
    }

    /// Adds a VIP for `protocol`, with the mark and the filter bit of its address.
    pub fn add_vip_of(&mut self, addr: [u8; 4], port: u16, protocol: u8, vip: VipInfo) {
        self.vips.insert(VipKey::new(addr, port, protocol), vip);
        let mark = VipInfo::new(vip.vip_id, VipKind::Address);
        self.vips.insert(VipKey::address_mark(addr), mark);
        self.set_filter_bit(vip_filter_bit(addr));
    }

    /// Adds a VIP of an IPv6 address for `protocol`, with the mark and the filter bit of its address.
    pub fn add_vip6_of(&mut self, addr: [u8; 16], port: u16, protocol: u8, vip: VipInfo) {
        self.vips6.insert(Vip6Key::new(addr, port, protocol), vip);
        let mark = VipInfo::new(vip.vip_id, VipKind::Address);
        self.vips6.insert(Vip6Key::address_mark(addr), mark);
        self.set_filter_bit(vip6_filter_bit(zerocopy::transmute!(addr)));
    }

    fn set_filter_bit(&mut self, bit: u32) {
        self.vip_filter[(bit >> 6) as usize] |= 1 << (bit & 63);
    }

    /// Remembers that `session` of `function` lives on `worker`.
    pub fn set_session(&mut self, function: FunctionId, session: u64, worker: WorkerId) {
        let config = self.config.expect("a configuration places sessions");
        let hash = table_hash(config.table_secret(), session, function.0);
        let row = &self.sessions[row_index(hash, config.session_mask) as usize];
        let place = row
            .iter()
            .find(|place| {
                let place = Place(place.get());
                place.is_empty() || place.is_of(hash)
            })
            .expect("a row of a test is not full");
        place.set(Place::new(hash, worker).0);
    }

    /// Where `session` of `function` lives.
    #[must_use]
    pub fn session(&self, function: FunctionId, session: u64) -> Option<WorkerId> {
        let config = self.config?;
        let hash = table_hash(config.table_secret(), session, function.0);
        let row = &self.sessions[row_index(hash, config.session_mask) as usize];
        row.iter()
            .map(|place| Place(place.get()))
            .find(|place| place.is_of(hash))
            .map(Place::worker)
    }

    /// Adds a worker that is reached through the interface of arrival, idle and with room for ten requests.
    pub fn add_worker(&mut self, worker: u16, state: WorkerState) -> WorkerInfo {
        let [high, low] = worker.to_be_bytes();
        let info = WorkerInfo {
            state: state as u8,
            weight: NORMAL_WEIGHT,
            dst_mac: [2, 0, 0, 1, high, low],
            src_mac: [2, 0, 0, 2, 0, 0],
            addr4: [10, 80, high, low],
            addr6: [0xfd, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low],
            ..WorkerInfo::ABSENT
        };
        self.workers.insert(WorkerId(worker), info);
        self.set_load(worker, 0, 10);
        info
    }

    /// Sets how busy a worker is.
    pub fn set_load(&mut self, worker: u16, in_flight: u32, capacity: u32) {
        let load = WorkerLoad::new(in_flight, capacity);
        self.loads.get_mut().insert(WorkerId(worker), load);
    }

    /// Makes `worker` the owner of `slot` in the live generation.
    pub fn set_slot(&mut self, slot: ebpf_common::ids::SlotId, worker: WorkerId) {
        self.slots
            .insert(slot_index(self.generation(), slot), worker);
    }

    /// Fills the first entries that `function` probes in the live Maglev table with `workers`; the rest of
    /// its probes find none.
    pub fn set_home(&mut self, function: FunctionId, workers: &[WorkerId]) {
        for probe in 0..limits::HOME_PROBES {
            let worker = workers.get(probe as usize).copied();
            self.home.insert(
                home_index(self.generation(), 0, home_hash(function), probe),
                worker.unwrap_or(WorkerId::NONE),
            );
        }
    }

    /// The live generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.config.map_or(0, |config| config.generation)
    }

    /// The load row of `worker`.
    #[must_use]
    pub fn load(&self, worker: u16) -> WorkerLoad {
        self.loads.borrow()[&WorkerId(worker)]
    }

    /// What the counters have counted since they were last taken; those at zero are left out.
    #[must_use]
    pub fn take_counters(&self) -> BTreeMap<Counter, u64> {
        self.counters.take()
    }
}

impl Tables for FakeTables {
    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn vip_filter(&self, index: u32) -> Option<u64> {
        self.vip_filter.get(index as usize).copied()
    }

    fn vip(&self, key: &VipKey) -> Option<&VipInfo> {
        self.vips.get(key)
    }

    fn vip6(&self, key: &Vip6Key) -> Option<&VipInfo> {
        self.vips6.get(key)
    }

    fn worker(&self, worker: WorkerId) -> Option<&WorkerInfo> {
        self.workers.get(&worker)
    }

    fn worker_load(&self, worker: WorkerId) -> Option<WorkerLoad> {
        self.loads.borrow().get(&worker).copied()
    }

    fn change_load<R>(
        &self,
        worker: WorkerId,
        change: impl FnOnce(&mut WorkerLoad) -> R,
    ) -> Option<R> {
        self.loads.borrow_mut().get_mut(&worker).map(change)
    }

    fn count_sent(&self, worker: WorkerId, requests: u32) {
        if let Some(load) = self.loads.borrow_mut().get_mut(&worker) {
            load.sent += u64::from(requests);
        }
    }

    fn function(&self, function: FunctionId) -> Option<&FunctionEntry> {
        self.functions.get(&function)
    }

    fn schema(&self, index: u32) -> Option<&SchemaEntry> {
        self.schemas.get(index as usize)
    }

    fn extract<P: Packet>(
        &self,
        packet: &P,
        offset: u32,
        len: u32,
        schema: &SchemaEntry,
    ) -> Option<Key> {
        let len = len.min(SCAN_MAX as u32);
        let mut payload = [0; SCAN_MAX];
        packet.copy_out(offset, len, &mut payload)?;
        schema.find(&payload[..len as usize])
    }

    fn session_row(&self, index: u32) -> Option<&Row> {
        self.sessions.get(index as usize)
    }

    fn flow_row(&self, index: u32) -> Option<&Row> {
        self.flows.get(index as usize)
    }

    fn pktgen(&self, index: u32) -> Option<&PktgenInfo> {
        self.pktgen.get(index as usize)
    }

    fn block_filter(&self, index: u32) -> Option<u64> {
        self.police.filter.words().get(index as usize).copied()
    }

    fn blocked(&self, source: SourceAddress) -> bool {
        self.police.blocked(source)
    }

    fn source_bucket(&self, index: u32) -> Option<&Cell<u64>> {
        self.police.sources.get(index as usize)
    }

    fn function_limit(&self, function: FunctionId) -> Option<(&FunctionLimit, &Cell<u64>)> {
        let (limit, bucket) = self.police.functions.get(&function)?;
        Some((limit, bucket))
    }

    fn cpu_bucket(&self, bucket: CpuBucket) -> Option<&Cell<u64>> {
        self.police.cpu.get(bucket as usize)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn slot(&self, index: u32) -> Option<WorkerId> {
        let entry = self.slots.get(&index).copied().unwrap_or(WorkerId(0));
        (index < self.slots_len).then_some(entry)
    }

    fn home(&self, index: u32) -> Option<WorkerId> {
        let entry = self.home.get(&index).copied().unwrap_or(WorkerId(0));
        (index < self.home_len).then_some(entry)
    }

    fn search_home(&self, hash: u64, pool: u8, bound: home::Bound) -> home::Found {
        home::search(hash, pool, bound, self)
    }

    fn store_place(&self, key: places::Key, hash: TableHash, worker: WorkerId) -> places::Stored {
        places::store(key, hash, worker, self)
    }

    fn opaque<const N: usize>(&self, words: [u32; N]) -> [u32; N] {
        words
    }

    fn decap(&self) -> Option<&DecapRow> {
        self.decap.as_ref()
    }

    fn redirect(&self, ifindex: u32) -> bool {
        self.ports.contains(&ifindex)
    }

    fn note(&self, note: impl FnOnce(&mut TraceEvent)) {
        note(&mut self.trace.event.borrow_mut());
    }

    fn count(&self, counter: Counter) {
        self.note(|event| event.head.mark(counter as u32));
        *self.counters.borrow_mut().entry(counter).or_default() += 1;
    }

    fn count_vip(&self, vip_id: u32, bytes: u32) {
        add(self.vip_counters.borrow_mut().entry(vip_id), bytes);
    }

    fn count_worker(&self, worker: WorkerId, bytes: u32) {
        add(self.worker_counters.borrow_mut().entry(worker), bytes);
    }

    fn count_function(&self, function: FunctionId) {
        let index = mix64(function.0) as u32 & (limits::TOP_FUNCTIONS - 1);
        let mut rows = self.function_counters.borrow_mut();
        let empty = TopFunction {
            function: 0,
            packets: 0,
            votes: 0,
        };
        rows.entry(index).or_insert(empty).vote(function);
    }
}

fn add<K: Ord>(entry: std::collections::btree_map::Entry<'_, K, Traffic>, bytes: u32) {
    let traffic = entry.or_insert(Traffic {
        packets: 0,
        bytes: 0,
    });
    traffic.packets += 1;
    traffic.bytes += u64::from(bytes);
}
