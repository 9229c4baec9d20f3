//! The content of the maps, twice: as it should be and as it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ebpf_common::{
    ids::{FunctionId, WorkerId},
    limits::{
        BLOCK_FILTER_WORDS, GENERATIONS, MAGLEV_TABLE_LEN, MAX_PKTGEN, MAX_POOLS, MAX_SCHEMAS,
        MAX_WORKERS, PKTGEN_FUNCTIONS, SLOTS, VIP_FILTER_BITS,
    },
    maps::{
        Config, FunctionEntry, PktgenInfo, Rate, Vip6Key, VipInfo, VipKey, WorkerInfo, name,
        vip_filter_bit, vip6_filter_bit,
    },
    schema::SchemaEntry,
};

use crate::{
    config::Prefix,
    id_map::IdHash,
    maps::protocol_name,
    policy::{Rules, Settings, Table},
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

    /// As people write it: `10.99.0.1:9000/udp`.
    #[must_use]
    pub fn label(&self) -> String {
        let (address, port, protocol) = self.parts();
        let port = match port {
            0 => "any".to_owned(),
            port => port.to_string(),
        };
        let protocol = protocol_name(protocol);
        match address {
            IpAddr::V4(address) => format!("{address}:{port}/{protocol}"),
            IpAddr::V6(address) => format!("[{address}]:{port}/{protocol}"),
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
    /// VIPs, settings and police; none means that they stay as they are.
    pub rules: Option<Arc<Rules>>,
    /// Rows of `WORKERS`; those of other workers stay as they are.
    pub workers: BTreeMap<WorkerId, WorkerInfo>,
    /// Rows of `FUNCTIONS`; none means that they stay as they are.
    pub functions: Option<BTreeMap<u64, FunctionEntry>>,
    /// Owner of each slot.
    pub slots: Arc<Vec<WorkerId>>,
    /// The Maglev tables by the number of their pool; those of other pools stay as they are.
    pub homes: Vec<Option<Table>>,
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
    pub functions: HashMap<u64, FunctionEntry, IdHash>,
    /// `SLOTS`, both copies.
    pub slots: Vec<WorkerId>,
    /// `HOME`, both copies.
    pub home: Vec<WorkerId>,
    /// `PORTS`.
    pub ports: BTreeSet<u32>,
    /// `CONFIG`.
    pub config: Config,
    /// `SCHEMAS`.
    pub schemas: Vec<SchemaEntry>,
    /// `PKTGEN`.
    pub pktgen: Vec<PktgenInfo>,
    /// `BLOCK_FILTER`.
    pub block_filter: Vec<u64>,
    /// `BLOCK4` and `BLOCK6`.
    pub blocks: BTreeSet<Prefix>,
    /// `FUNCTION_LIMITS`.
    pub limits: BTreeMap<FunctionId, Rate>,
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
    /// Makes the copies of `SLOTS` and `HOME` for this generation the live ones.
    Generation(u32),
    /// Sets the fields of `CONFIG` that an operator sets.
    Settings(Settings),
    /// Sets the bound on homes.
    HomeBound(u32),
    /// Sets the epoch of the keys, and the keys themselves.
    Keys(Keys),
    /// Sets what follows from the sizes of the maps and the machine.
    Constants(Constants),
    /// Sets a row of `SCHEMAS` that no function names.
    Schema(u16, SchemaEntry),
    /// Sets a row of `PKTGEN`.
    Pktgen(u32, PktgenInfo),
    /// Sets a word of `BLOCK_FILTER`.
    BlockFilter(u32, u64),
    /// Blocks a prefix.
    Block(Prefix),
    /// Does not block it any more.
    Unblock(Prefix),
    /// Sets a function's rate.
    Limit(FunctionId, Rate),
    /// Removes it.
    Unlimit(FunctionId),
    /// Sets a VIP's row.
    Vip(AnyVipKey, VipInfo),
    /// Removes a VIP.
    RemoveVip(AnyVipKey),
    /// Sets a word of `VIP_FILTER`.
    VipFilter(u32, u64),
}

/// The keys of `CONFIG`, by the parity of their epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// The current epoch.
    pub epoch: u8,
    /// Of route cookies.
    pub cookie: [[u64; 2]; 2],
    /// Of address tokens.
    pub token: [[u64; 2]; 2],
    /// Of LOAD packets.
    pub load: [[u64; 2]; 2],
}

impl Keys {
    /// Those in `row`.
    #[must_use]
    pub const fn of(row: &Config) -> Self {
        Self {
            epoch: row.key_epoch as u8,
            cookie: row.cookie_keys,
            token: row.token_keys,
            load: row.load_keys,
        }
    }

    /// The next epoch, with `fresh` keys for cookies, tokens and LOAD packets in place of those of the epoch before this
    /// one. What was made in this one stays valid.
    #[must_use]
    pub fn rotated(mut self, fresh: [[u64; 2]; 3]) -> Self {
        self.epoch = self.epoch.wrapping_add(1);
        let place = usize::from(self.epoch & 1);
        let [cookie, token, load] = fresh;
        self.cookie[place] = cookie;
        self.token[place] = token;
        self.load[place] = load;
        self
    }
}

/// The fields of `CONFIG` that follow from the sizes of the maps and the machine, and the secret, which is only
/// changed when the names of workers are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constants {
    /// Rows of `SESSIONS`, less one.
    pub session_mask: u32,
    /// Rows of `FLOWS`, less one.
    pub flow_mask: u32,
    /// Rows of `FUNCTIONS`, less one.
    pub function_mask: u32,
    /// Nanoseconds of a tick of the kernel's timer.
    pub tick_ns: u32,
    /// Secret of the table hashes.
    pub table_secret: [u64; 2],
}

impl MapWrite {
    /// `row` after this write, if it is one of `CONFIG`.
    #[must_use]
    pub const fn config(&self, row: Config) -> Option<Config> {
        Some(match *self {
            Self::Generation(generation) => Config { generation, ..row },
            Self::Settings(settings) => settings.over(row),
            Self::HomeBound(home_bound) => Config { home_bound, ..row },
            Self::Keys(keys) => Config {
                key_epoch: keys.epoch as u32,
                cookie_keys: keys.cookie,
                token_keys: keys.token,
                load_keys: keys.load,
                ..row
            },
            Self::Constants(constants) => Config {
                session_mask: constants.session_mask,
                flow_mask: constants.flow_mask,
                function_mask: constants.function_mask,
                tick_ns: constants.tick_ns,
                table_secret: constants.table_secret,
                ..row
            },
            _ => return None,
        })
    }

    /// The map that it changes.
    #[must_use]
    pub const fn map(&self) -> &'static str {
        match self {
            Self::AddPort(_) | Self::RemovePort(_) => name::PORTS,
            Self::Worker(..) => name::WORKERS,
            Self::Function(..) | Self::RemoveFunction(_) => name::FUNCTIONS,
            Self::Slot(..) => name::SLOTS,
            Self::Home(..) => name::HOME,
            Self::Generation(_)
            | Self::Settings(_)
            | Self::HomeBound(_)
            | Self::Keys(_)
            | Self::Constants(_) => name::CONFIG,
            Self::Schema(..) => name::SCHEMAS,
            Self::Pktgen(..) => name::PKTGEN,
            Self::BlockFilter(..) => name::BLOCK_FILTER,
            Self::Block(prefix) | Self::Unblock(prefix) => match prefix.address {
                IpAddr::V4(_) => name::BLOCK4,
                IpAddr::V6(_) => name::BLOCK6,
            },
            Self::Limit(..) | Self::Unlimit(_) => name::FUNCTION_LIMITS,
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
            functions: HashMap::default(),
            slots: vec![zero; (GENERATIONS * SLOTS) as usize],
            home: vec![zero; (GENERATIONS * HOME_LEN) as usize],
            ports: BTreeSet::new(),
            config: Config::ZERO,
            schemas: vec![SchemaEntry::EMPTY; MAX_SCHEMAS as usize],
            pktgen: vec![NO_PKTGEN; MAX_PKTGEN as usize],
            block_filter: vec![0; BLOCK_FILTER_WORDS as usize],
            blocks: BTreeSet::new(),
            limits: BTreeMap::new(),
        }
    }

    /// The copy of `SLOTS` for `generation`.
    #[must_use]
    pub fn slots_of(&self, generation: u32) -> &[WorkerId] {
        copy(&self.slots, generation, SLOTS)
    }

    /// The table of `pool` in the copy of `HOME` for `generation`.
    #[must_use]
    pub fn home_of(&self, generation: u32, pool: u8) -> &[WorkerId] {
        let start = (u32::from(pool) * MAGLEV_TABLE_LEN) as usize;
        &copy(&self.home, generation, HOME_LEN)[start..start + MAGLEV_TABLE_LEN as usize]
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
            MapWrite::Generation(_)
            | MapWrite::Settings(_)
            | MapWrite::HomeBound(_)
            | MapWrite::Keys(_)
            | MapWrite::Constants(_) => {
                self.config = write.config(self.config).unwrap_or(self.config);
            }
            MapWrite::Schema(row, schema) => self.schemas[usize::from(row)] = schema,
            MapWrite::Pktgen(row, info) => self.pktgen[row as usize] = info,
            MapWrite::BlockFilter(index, word) => self.block_filter[index as usize] = word,
            MapWrite::Block(prefix) => {
                self.blocks.insert(prefix);
            }
            MapWrite::Unblock(prefix) => {
                self.blocks.remove(&prefix);
            }
            MapWrite::Limit(function, rate) => {
                self.limits.insert(function, rate);
            }
            MapWrite::Unlimit(function) => {
                self.limits.remove(&function);
            }
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

const NO_PKTGEN: PktgenInfo = PktgenInfo {
    functions_len: 0,
    sessions: 0,
    functions: [0; PKTGEN_FUNCTIONS],
};

/// Entries of one generation of `HOME`.
pub(super) const HOME_LEN: u32 = MAX_POOLS * MAGLEV_TABLE_LEN;

fn copy(table: &[WorkerId], generation: u32, len: u32) -> &[WorkerId] {
    let start = ((generation & 1) * len) as usize;
    &table[start..start + len as usize]
}
