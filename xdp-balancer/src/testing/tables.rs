//! Tables of standard maps, which behave as the BPF maps do: a missing row of an array is one of zeros.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits,
    maps::{
        Config, Counter, FunctionEntry, SessionEntry, SessionKey, VipInfo, VipKey, VipKind,
        WorkerInfo, WorkerLoad, WorkerState, home_index, slot_index,
    },
};

use crate::{SessionError, Tables};

/// The tables. What userspace writes is plain; what the pipeline writes is in cells.
#[derive(Debug, Clone)]
pub struct FakeTables {
    /// `CONFIG`.
    pub config: Option<Config>,
    /// `VIPS`.
    pub vips: HashMap<VipKey, VipInfo>,
    /// `WORKERS`.
    pub workers: BTreeMap<WorkerId, WorkerInfo>,
    /// `WORKER_LOAD`.
    pub loads: BTreeMap<WorkerId, WorkerLoad>,
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
    /// `PORTS`.
    pub ports: BTreeSet<u32>,
    /// `SESSIONS`.
    pub sessions: RefCell<HashMap<SessionKey, SessionEntry>>,
    /// How many entries `SESSIONS` takes before it refuses more.
    pub sessions_len: usize,
    /// A session that another CPU creates between our look-up and our write.
    pub rival_session: Option<(SessionKey, SessionEntry)>,
    /// `COUNTERS`.
    pub counters: RefCell<BTreeMap<Counter, u64>>,
}

impl Default for FakeTables {
    fn default() -> Self {
        Self {
            config: Some(Config {
                generation: 0,
                cookie_epoch: 1,
                cookie_keys: [[1, 2], [3, 4]],
                reserved: 0,
            }),
            vips: HashMap::new(),
            workers: BTreeMap::new(),
            loads: BTreeMap::new(),
            functions: BTreeMap::new(),
            slots: BTreeMap::new(),
            slots_len: limits::GENERATIONS * limits::SLOTS,
            home: BTreeMap::new(),
            home_len: limits::GENERATIONS * limits::MAGLEV_TABLE_LEN,
            ports: BTreeSet::new(),
            sessions: RefCell::default(),
            sessions_len: usize::MAX,
            rival_session: None,
            counters: RefCell::default(),
        }
    }
}

impl FakeTables {
    /// Adds an RPC VIP, with the mark of its address.
    pub fn add_vip(&mut self, addr: [u8; 4], port: u16) {
        let vip = VipInfo::new(0, VipKind::Rpc);
        self.vips.insert(VipKey::new(addr, port, 17), vip);
        let mark = VipInfo::new(0, VipKind::Address);
        self.vips.insert(VipKey::address_mark(addr), mark);
    }

    /// Adds a worker that is reached through the interface of arrival, idle and with room for ten requests.
    pub fn add_worker(&mut self, worker: u16, state: WorkerState) -> WorkerInfo {
        let [high, low] = worker.to_be_bytes();
        let info = WorkerInfo {
            ifindex: 0,
            state: state as u8,
            reserved: [0; 3],
            dst_mac: [2, 0, 0, 1, high, low],
            src_mac: [2, 0, 0, 2, 0, 0],
        };
        self.workers.insert(WorkerId(worker), info);
        self.set_load(worker, 0, 10);
        info
    }

    /// Sets how busy a worker is.
    pub fn set_load(&mut self, worker: u16, in_flight: u32, capacity: u32) {
        let load = WorkerLoad {
            in_flight,
            capacity,
        };
        self.loads.insert(WorkerId(worker), load);
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
                home_index(self.generation(), function, probe),
                worker.unwrap_or(WorkerId::NONE),
            );
        }
    }

    /// The live generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.config.map_or(0, |config| config.generation)
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

    fn vip(&self, key: &VipKey) -> Option<&VipInfo> {
        self.vips.get(key)
    }

    fn worker(&self, worker: WorkerId) -> Option<&WorkerInfo> {
        self.workers.get(&worker)
    }

    fn worker_load(&self, worker: WorkerId) -> Option<&WorkerLoad> {
        self.loads.get(&worker)
    }

    fn function(&self, function: FunctionId) -> Option<&FunctionEntry> {
        self.functions.get(&function)
    }

    fn session(&self, key: &SessionKey) -> Option<SessionEntry> {
        self.sessions.borrow().get(key).copied()
    }

    fn create_session(&self, key: &SessionKey, entry: SessionEntry) -> Result<(), SessionError> {
        if let Some((rival_key, rival_entry)) = self.rival_session {
            self.sessions.borrow_mut().insert(rival_key, rival_entry);
        }
        if self.sessions.borrow().contains_key(key) {
            return Err(SessionError::Exists);
        }
        self.move_session(key, entry)
    }

    fn move_session(&self, key: &SessionKey, entry: SessionEntry) -> Result<(), SessionError> {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() >= self.sessions_len && !sessions.contains_key(key) {
            return Err(SessionError::Refused);
        }
        sessions.insert(*key, entry);
        Ok(())
    }

    fn slot(&self, index: u32) -> Option<WorkerId> {
        let entry = self.slots.get(&index).copied().unwrap_or(WorkerId(0));
        (index < self.slots_len).then_some(entry)
    }

    fn home(&self, index: u32) -> Option<WorkerId> {
        let entry = self.home.get(&index).copied().unwrap_or(WorkerId(0));
        (index < self.home_len).then_some(entry)
    }

    fn redirect(&self, ifindex: u32) -> bool {
        self.ports.contains(&ifindex)
    }

    fn count(&self, counter: Counter) {
        *self.counters.borrow_mut().entry(counter).or_default() += 1;
    }
}
