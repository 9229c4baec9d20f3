//! The content of the maps, twice: as it should be and as it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ebpf_common::{
    ids::WorkerId,
    limits::{GENERATIONS, MAGLEV_TABLE_LEN, MAX_POOLS, MAX_WORKERS, SLOTS, VIP_FILTER_BITS},
    maps::{
        Config, FunctionEntry, Vip6Key, VipInfo, VipKey, WorkerInfo, name, vip_filter_bit,
        vip6_filter_bit,
    },
};

/// Words of `VIP_FILTER`.
const FILTER_WORDS: usize = (VIP_FILTER_BITS / 64) as usize;

/// The key of a row of `VIPS` or of `VIPS6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnyVipKey {
    /// Of `VIPS`.
    V4(VipKey),
    /// Of `VIPS6`.
    V6(Vip6Key),
}

impl AnyVipKey {
    /// The key of `address`:`port` over `protocol`; port 0 is any.
    #[must_use]
    pub const fn new(address: IpAddr, port: u16, protocol: u8) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(VipKey::new(address.octets(), port, protocol)),
            IpAddr::V6(address) => Self::V6(Vip6Key::new(address.octets(), port, protocol)),
        }
    }

    /// The key under which `address` is marked as having a VIP.
    #[must_use]
    pub const fn address_mark(address: IpAddr) -> Self {
        Self::new(address, 0, 0)
    }

    /// Address, port and protocol.
    #[must_use]
    pub fn parts(&self) -> (IpAddr, u16, u8) {
        match self {
            Self::V4(key) => (key.addr.into(), u16::from_be_bytes(key.port), key.protocol),
            Self::V6(key) => (key.addr.into(), u16::from_be_bytes(key.port), key.protocol),
        }
    }

    /// The map that holds it.
    #[must_use]
    pub const fn map(&self) -> &'static str {
        match self {
            Self::V4(_) => name::VIPS,
            Self::V6(_) => name::VIPS6,
        }
    }

    fn filter_bit(&self) -> u32 {
        match self {
            Self::V4(key) => vip_filter_bit(key.addr),
            Self::V6(key) => {
                let [a, b, c, d] = [0, 4, 8, 12].map(|at| {
                    let mut word = [0; 4];
                    word.copy_from_slice(&key.addr[at..at + 4]);
                    u32::from_ne_bytes(word)
                });
                vip6_filter_bit([a, b, c, d])
            }
        }
    }
}

/// `VIP_FILTER` for a set of VIPs.
#[must_use]
pub fn vip_filter<'a>(keys: impl Iterator<Item = &'a AnyVipKey>) -> Vec<u64> {
    let mut words = vec![0; FILTER_WORDS];
    for key in keys {
        let bit = key.filter_bit();
        words[(bit / 64) as usize] |= 1 << (bit % 64);
    }
    words
}

/// What the maps should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredTables {
    /// Rows of `VIPS` and `VIPS6`.
    pub vips: HashMap<AnyVipKey, VipInfo>,
    /// Rows of `WORKERS`; every other row is absent.
    pub workers: BTreeMap<WorkerId, WorkerInfo>,
    /// Rows of `FUNCTIONS`; none means that they stay as they are.
    pub functions: Option<BTreeMap<u64, FunctionEntry>>,
    /// Owner of each slot.
    pub slots: Vec<WorkerId>,
    /// The Maglev table.
    pub home: Vec<WorkerId>,
    /// Interfaces in `PORTS`.
    pub ports: BTreeSet<u32>,
}

/// What the maps hold: read once when they are opened, and from then on kept in step with each write. Without
/// `WORKER_LOAD`, which the program writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualTables {
    /// `VIPS` and `VIPS6`.
    pub vips: HashMap<AnyVipKey, VipInfo>,
    /// `WORKERS`, by worker id.
    pub workers: Vec<WorkerInfo>,
    /// `VIP_FILTER`.
    pub vip_filter: Vec<u64>,
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
    Vip(AnyVipKey, VipInfo),
    /// Removes a VIP.
    RemoveVip(AnyVipKey),
    /// Sets a word of `VIP_FILTER`.
    VipFilter(u32, u64),
}

impl MapWrite {
    /// The map that it changes.
    #[must_use]
    pub const fn map(&self) -> &'static str {
        match self {
            Self::AddPort(_) | Self::RemovePort(_) => name::PORTS,
            Self::Worker(..) => name::WORKERS,
            Self::Function(..) | Self::RemoveFunction(_) => name::FUNCTIONS,
            Self::Slot(..) => name::SLOTS,
            Self::Home(..) => name::HOME,
            Self::Config(_) => name::CONFIG,
            Self::Vip(key, _) | Self::RemoveVip(key) => key.map(),
            Self::VipFilter(..) => name::VIP_FILTER,
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
            vip_filter: vec![0; FILTER_WORDS],
            functions: HashMap::new(),
            slots: vec![zero; (GENERATIONS * SLOTS) as usize],
            home: vec![zero; (GENERATIONS * HOME_LEN) as usize],
            ports: BTreeSet::new(),
            config: Config::ZERO,
        }
    }

    /// The copy of `SLOTS` for `generation`.
    #[must_use]
    pub fn slots_of(&self, generation: u32) -> &[WorkerId] {
        copy(&self.slots, generation, SLOTS)
    }

    /// The table of pool 0 in the copy of `HOME` for `generation`.
    #[must_use]
    pub fn home_of(&self, generation: u32) -> &[WorkerId] {
        &copy(&self.home, generation, HOME_LEN)[..MAGLEV_TABLE_LEN as usize]
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
            MapWrite::VipFilter(index, word) => self.vip_filter[index as usize] = word,
        }
    }
}

/// Entries of one generation of `HOME`.
pub(super) const HOME_LEN: u32 = MAX_POOLS * MAGLEV_TABLE_LEN;

fn copy(table: &[WorkerId], generation: u32, len: u32) -> &[WorkerId] {
    let start = ((generation & 1) * len) as usize;
    &table[start..start + len as usize]
}
