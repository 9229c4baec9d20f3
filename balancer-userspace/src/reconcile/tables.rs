//! The content of the maps, twice: as it should be and as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ebpf_common::{
    ids::WorkerId,
    limits::{GENERATIONS, MAGLEV_TABLE_LEN, MAX_WORKERS, SLOTS},
    maps::{Config, FunctionEntry, VipInfo, VipKey, WorkerInfo, WorkerLoad},
};

/// What the maps should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredTables {
    /// Rows of `VIPS`.
    pub vips: HashMap<VipKey, VipInfo>,
    /// Rows of `WORKERS`; every other row is absent.
    pub workers: BTreeMap<WorkerId, WorkerInfo>,
    /// Rows of `WORKER_LOAD`; every other row stays as it is.
    pub loads: BTreeMap<WorkerId, WorkerLoad>,
    /// Rows of `FUNCTIONS`; none means that they stay as they are.
    pub functions: Option<BTreeMap<u64, FunctionEntry>>,
    /// Owner of each slot.
    pub slots: Vec<WorkerId>,
    /// The Maglev table.
    pub home: Vec<WorkerId>,
    /// Interfaces in `PORTS`.
    pub ports: BTreeSet<u32>,
}

/// What the maps hold: read once when they are opened, and from then on kept in step with each write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualTables {
    /// `VIPS`.
    pub vips: HashMap<VipKey, VipInfo>,
    /// `WORKERS`, by worker id.
    pub workers: Vec<WorkerInfo>,
    /// `WORKER_LOAD`, by worker id.
    pub loads: Vec<WorkerLoad>,
    /// `FUNCTIONS`.
    pub functions: HashMap<u64, FunctionEntry>,
    /// `SLOTS`, both copies.
    pub slots: Vec<WorkerId>,
    /// `HOME`, both copies.
    pub home: Vec<WorkerId>,
    /// `PORTS`.
    pub ports: BTreeSet<u32>,
    /// `CONFIG`.
    pub config: Config,
}

/// One change of one map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapWrite {
    /// Lets packets leave by this interface.
    AddPort(u32),
    /// Forgets an interface.
    RemovePort(u32),
    /// Sets a worker's row.
    Worker(WorkerId, WorkerInfo),
    /// Sets a worker's load.
    Load(WorkerId, WorkerLoad),
    /// Sets a function's row.
    Function(u64, FunctionEntry),
    /// Removes a function.
    RemoveFunction(u64),
    /// Sets an entry of `SLOTS`, by its position in the map.
    Slot(u32, WorkerId),
    /// Sets an entry of `HOME`, by its position in the map.
    Home(u32, WorkerId),
    /// Sets the configuration, and so which copies are live.
    Config(Config),
    /// Sets a VIP's row.
    Vip(VipKey, VipInfo),
    /// Removes a VIP.
    RemoveVip(VipKey),
}

impl MapWrite {
    /// The map that it changes.
    #[must_use]
    pub const fn map(&self) -> &'static str {
        use ebpf_common::maps::name;
        match self {
            Self::AddPort(_) | Self::RemovePort(_) => name::PORTS,
            Self::Worker(..) => name::WORKERS,
            Self::Load(..) => name::WORKER_LOAD,
            Self::Function(..) | Self::RemoveFunction(_) => name::FUNCTIONS,
            Self::Slot(..) => name::SLOTS,
            Self::Home(..) => name::HOME,
            Self::Config(_) => name::CONFIG,
            Self::Vip(..) | Self::RemoveVip(_) => name::VIPS,
        }
    }
}

impl ActualTables {
    /// The maps as the kernel makes them: array entries zero, hashes empty.
    #[must_use]
    pub fn fresh() -> Self {
        let zero = WorkerId(0);
        Self {
            vips: HashMap::new(),
            workers: vec![WorkerInfo::ABSENT; MAX_WORKERS as usize],
            loads: vec![NO_LOAD; MAX_WORKERS as usize],
            functions: HashMap::new(),
            slots: vec![zero; (GENERATIONS * SLOTS) as usize],
            home: vec![zero; (GENERATIONS * MAGLEV_TABLE_LEN) as usize],
            ports: BTreeSet::new(),
            config: Config {
                generation: 0,
                cookie_epoch: 0,
                cookie_keys: [[0; 2]; 2],
                reserved: 0,
            },
        }
    }

    /// The copy of `SLOTS` for `generation`.
    #[must_use]
    pub fn slots_of(&self, generation: u32) -> &[WorkerId] {
        copy(&self.slots, generation, SLOTS)
    }

    /// The copy of `HOME` for `generation`.
    #[must_use]
    pub fn home_of(&self, generation: u32) -> &[WorkerId] {
        copy(&self.home, generation, MAGLEV_TABLE_LEN)
    }

    /// Follows a write that the kernel has taken.
    pub fn apply(&mut self, write: &MapWrite) {
        match *write {
            MapWrite::AddPort(ifindex) => {
                self.ports.insert(ifindex);
            }
            MapWrite::RemovePort(ifindex) => {
                self.ports.remove(&ifindex);
            }
            MapWrite::Worker(id, info) => self.workers[usize::from(id.0)] = info,
            MapWrite::Load(id, load) => self.loads[usize::from(id.0)] = load,
            MapWrite::Function(id, entry) => {
                self.functions.insert(id, entry);
            }
            MapWrite::RemoveFunction(id) => {
                self.functions.remove(&id);
            }
            MapWrite::Slot(index, owner) => self.slots[index as usize] = owner,
            MapWrite::Home(index, worker) => self.home[index as usize] = worker,
            MapWrite::Config(config) => self.config = config,
            MapWrite::Vip(key, info) => {
                self.vips.insert(key, info);
            }
            MapWrite::RemoveVip(key) => {
                self.vips.remove(&key);
            }
        }
    }
}

const NO_LOAD: WorkerLoad = WorkerLoad {
    in_flight: 0,
    capacity: 0,
};

fn copy(table: &[WorkerId], generation: u32, len: u32) -> &[WorkerId] {
    let start = ((generation & 1) * len) as usize;
    &table[start..start + len as usize]
}
