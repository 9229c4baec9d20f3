//! Writing to the maps, and reading once what they hold.

use std::{collections::BTreeSet, fmt, net::IpAddr, path::Path};

use aya::{
    maps::{
        Array, DevMapHash, LpmTrie, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key,
        xdp::XdpMapError,
    },
    util::nr_cpus,
};
use ebpf_common::{
    ids::{FunctionId, WorkerId},
    maps::{
        BlockEntry, Config, FunctionLimit, FunctionRow, PktgenInfo, Traffic, Vip6Row, VipRow,
        WorkerInfo, WorkerLoad, name,
    },
    schema::SchemaEntry,
};
use nix::errno::Errno;
use thiserror::Error;

use super::{OpenError, open, placed::Placed};
use crate::{
    config::Prefix,
    loads::Report,
    reconcile::tables::{ActualTables, AnyVipKey, MapWrite},
};

/// A write was not carried out.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The kernel did not take it.
    #[error("cannot write map {map}{}", mend(.source))]
    Kernel {
        /// The map.
        map: &'static str,
        /// The cause.
        #[source]
        source: Box<XdpMapError>,
    },
    /// There is no room for one more entry.
    #[error(
        "map {map} is full; raise its size in [limits] and load anew (`warmpath balancer detach`, then start)"
    )]
    Full {
        /// The map.
        map: &'static str,
    },
}

fn mend(error: &XdpMapError) -> &'static str {
    match errno(error) {
        Some(Errno::E2BIG) => ": it is full; raise its size in [limits] and load anew",
        Some(Errno::ENOMEM) => ": the kernel is short of memory",
        Some(Errno::EPERM | Errno::EACCES) => ": not allowed; run as root",
        _ => "",
    }
}

/// Whatever takes map writes: the kernel, or a fake in tests.
pub trait MapStore {
    /// Carries out one write.
    ///
    /// # Errors
    /// [`WriteError`]; nothing has changed then.
    fn write(&mut self, write: &MapWrite) -> Result<(), WriteError>;

    /// Gives `worker`'s rows of `WORKER_LOAD` and `WORKER_COUNTERS` to a worker that has not sent a LOAD packet yet.
    ///
    /// # Errors
    /// [`WriteError`].
    fn reset_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError>;

    /// Puts what a worker said by a heartbeat into its row of `WORKER_LOAD`, unless it sends LOAD packets, which the
    /// program takes in itself.
    ///
    /// # Errors
    /// [`WriteError`].
    fn report_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError>;

    /// Gives `worker`'s row of `WORKER_LOAD` back to heartbeats: until a LOAD packet comes, whatever its sequence number,
    /// `report` counts.
    ///
    /// # Errors
    /// [`WriteError`].
    fn restart_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError>;

    /// The worker's row of `WORKER_LOAD`.
    ///
    /// # Errors
    /// [`WriteError`].
    fn load(&self, worker: WorkerId) -> Result<WorkerLoad, WriteError>;
}

/// How many rows the tables have that are found by a hash: powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableRows {
    /// Of `SESSIONS`.
    pub sessions: u32,
    /// Of `FLOWS`.
    pub flows: u32,
    /// Of `FUNCTIONS`.
    pub functions: u32,
}

/// The pinned maps, open.
pub struct KernelMaps {
    config: Array<MapData, Config>,
    vips: Placed<VipRow>,
    vips6: Placed<Vip6Row>,
    vip_filter: Array<MapData, u64>,
    workers: Array<MapData, WorkerInfo>,
    loads: Array<MapData, WorkerLoad>,
    worker_counters: PerCpuArray<MapData, Traffic>,
    functions: Placed<FunctionRow>,
    slots: Array<MapData, u16>,
    home: Array<MapData, u16>,
    ports: DevMapHash<MapData>,
    schemas: Array<MapData, SchemaEntry>,
    pktgen: Array<MapData, PktgenInfo>,
    block_filter: Array<MapData, u64>,
    block4: LpmTrie<MapData, [u8; 4], BlockEntry>,
    block6: LpmTrie<MapData, [u8; 16], BlockEntry>,
    limits: Placed<FunctionLimit>,
    /// What the row of `CONFIG` holds.
    config_row: Config,
    session_rows: u32,
    flow_rows: u32,
}

// aya's maps have no Debug of their own.
impl fmt::Debug for KernelMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelMaps").finish_non_exhaustive()
    }
}

impl KernelMaps {
    /// Opens the maps pinned at `pin_path`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(pin_path: &Path) -> Result<Self, OpenError> {
        let config: Array<MapData, Config> = open::array(pin_path, name::CONFIG)?;
        let config_row = config.get(&0, 0).map_err(|source| OpenError::Type {
            path: pin_path.join(name::CONFIG),
            source: Box::new(source),
        })?;
        Ok(Self {
            config,
            config_row,
            schemas: open::array(pin_path, name::SCHEMAS)?,
            pktgen: open::array(pin_path, name::PKTGEN)?,
            block_filter: open::array(pin_path, name::BLOCK_FILTER)?,
            block4: open::trie(pin_path, name::BLOCK4)?,
            block6: open::trie(pin_path, name::BLOCK6)?,
            limits: Placed::open(pin_path, name::FUNCTION_LIMITS)?,
            vips: Placed::open(pin_path, name::VIPS)?,
            vips6: Placed::open(pin_path, name::VIPS6)?,
            vip_filter: open::array(pin_path, name::VIP_FILTER)?,
            session_rows: usable_rows(pin_path, name::SESSIONS)?,
            flow_rows: usable_rows(pin_path, name::FLOWS)?,
            workers: open::array(pin_path, name::WORKERS)?,
            loads: open::array(pin_path, name::WORKER_LOAD)?,
            worker_counters: open::per_cpu(pin_path, name::WORKER_COUNTERS)?,
            functions: Placed::open(pin_path, name::FUNCTIONS)?,
            slots: open::array(pin_path, name::SLOTS)?,
            home: open::array(pin_path, name::HOME)?,
            ports: open::ports(pin_path)?,
        })
    }

    /// How many rows the program can use.
    #[must_use]
    pub fn table_rows(&self) -> TableRows {
        TableRows {
            sessions: self.session_rows,
            flows: self.flow_rows,
            functions: self.functions.rows(),
        }
    }

    /// Everything the maps hold.
    ///
    /// # Errors
    /// The kernel's, if a map cannot be read.
    pub fn read(&self) -> Result<ActualTables, MapError> {
        let ids = |table: &Array<MapData, u16>| -> Result<Vec<WorkerId>, MapError> {
            table.iter().map(|id| Ok(WorkerId(id?))).collect()
        };
        let v4 = self
            .vips
            .entries()
            .map(|row| row.map(|(key, info)| (AnyVipKey::V4(key), info)));
        let v6 = self
            .vips6
            .entries()
            .map(|row| row.map(|(key, info)| (AnyVipKey::V6(key), info)));
        Ok(ActualTables {
            vips: v4.chain(v6).collect::<Result<_, _>>()?,
            vip_filter: self.vip_filter.iter().collect::<Result<_, _>>()?,
            workers: self.workers.iter().collect::<Result<_, _>>()?,
            functions: self
                .functions
                .entries()
                .map(|row| row.map(|(id, entry)| (id.0, entry)))
                .collect::<Result<_, _>>()?,
            slots: ids(&self.slots)?,
            home: ids(&self.home)?,
            ports: self.ports.keys().collect::<Result<_, _>>()?,
            config: self.config.get(&0, 0)?,
            schemas: self.schemas.iter().collect::<Result<_, _>>()?,
            pktgen: self.pktgen.iter().collect::<Result<_, _>>()?,
            block_filter: self.block_filter.iter().collect::<Result<_, _>>()?,
            blocks: self.blocks()?,
            limits: self.limits.entries().collect::<Result<_, _>>()?,
        })
    }
}

impl KernelMaps {
    fn set_config(&mut self, write: &MapWrite) -> Result<(), XdpMapError> {
        let Some(row) = write.config(self.config_row) else {
            return Ok(());
        };
        self.config.set(0, row, 0)?;
        self.config_row = row;
        Ok(())
    }

    /// What was sent to another worker of this id is not the new one's.
    fn reset_counters(&mut self, worker: WorkerId) -> Result<(), MapError> {
        const NOTHING: Traffic = Traffic {
            packets: 0,
            bytes: 0,
        };
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let zeros = PerCpuValues::try_from(vec![NOTHING; cpus])?;
        self.worker_counters.set(worker.0.into(), zeros, 0)
    }

    fn block(&mut self, prefix: Prefix) -> Result<(), MapError> {
        let len = prefix.len.into();
        let entry = BlockEntry { hits: 0 };
        match prefix.address {
            IpAddr::V4(address) => self
                .block4
                .insert(&Key::new(len, address.octets()), entry, 0),
            IpAddr::V6(address) => self
                .block6
                .insert(&Key::new(len, address.octets()), entry, 0),
        }
    }

    fn unblock(&mut self, prefix: Prefix) -> Result<(), MapError> {
        let len = prefix.len.into();
        match prefix.address {
            IpAddr::V4(address) => self.block4.remove(&Key::new(len, address.octets())),
            IpAddr::V6(address) => self.block6.remove(&Key::new(len, address.octets())),
        }
    }

    fn blocks(&self) -> Result<BTreeSet<Prefix>, MapError> {
        let v4 = self
            .block4
            .keys()
            .map(|key| key.map(|key| prefix(key.data(), key.prefix_len())));
        let v6 = self
            .block6
            .keys()
            .map(|key| key.map(|key| prefix(key.data(), key.prefix_len())));
        v4.chain(v6).collect()
    }
}

pub(super) fn prefix(address: impl Into<IpAddr>, len: u32) -> Prefix {
    Prefix {
        address: address.into(),
        len: u8::try_from(len).unwrap_or(u8::MAX),
    }
}

impl MapStore for KernelMaps {
    fn write(&mut self, write: &MapWrite) -> Result<(), WriteError> {
        let result = match *write {
            MapWrite::Vip(AnyVipKey::V4(key), info) => return self.vips.insert(key, info),
            MapWrite::Vip(AnyVipKey::V6(key), info) => return self.vips6.insert(key, info),
            MapWrite::RemoveVip(AnyVipKey::V4(key)) => return self.vips.remove(&key),
            MapWrite::RemoveVip(AnyVipKey::V6(key)) => return self.vips6.remove(&key),
            MapWrite::Function(id, entry) => return self.functions.insert(FunctionId(id), entry),
            MapWrite::RemoveFunction(id) => return self.functions.remove(&FunctionId(id)),
            MapWrite::Limit(function, rate) => return self.limits.insert(function, rate),
            MapWrite::Unlimit(function) => return self.limits.remove(&function),
            MapWrite::AddPort(ifindex) => self.ports.insert(ifindex, ifindex, None, 0),
            // The kernel itself removes the entry of an interface that goes away.
            MapWrite::RemovePort(ifindex) => gone_is_fine(self.ports.remove(ifindex)),
            MapWrite::Worker(id, info) => {
                self.workers.set(id.0.into(), info, 0).map_err(Into::into)
            }
            MapWrite::Slot(index, owner) => self.slots.set(index, owner.0, 0).map_err(Into::into),
            MapWrite::Home(index, worker) => self.home.set(index, worker.0, 0).map_err(Into::into),
            MapWrite::Generation(_)
            | MapWrite::Settings(_)
            | MapWrite::HomeBound(_)
            | MapWrite::Keys(_)
            | MapWrite::Constants(_) => self.set_config(write),
            MapWrite::Schema(row, schema) => {
                self.schemas.set(row.into(), schema, 0).map_err(Into::into)
            }
            MapWrite::Pktgen(row, info) => self.pktgen.set(row, info, 0).map_err(Into::into),
            MapWrite::BlockFilter(index, word) => {
                self.block_filter.set(index, word, 0).map_err(Into::into)
            }
            MapWrite::Block(prefix) => self.block(prefix).map_err(Into::into),
            MapWrite::Unblock(prefix) => gone_is_fine(self.unblock(prefix)),
            MapWrite::VipFilter(index, word) => {
                self.vip_filter.set(index, word, 0).map_err(Into::into)
            }
        };
        result.map_err(|source| WriteError::Kernel {
            map: write.map(),
            source: Box::new(source),
        })
    }

    fn load(&self, worker: WorkerId) -> Result<WorkerLoad, WriteError> {
        self.loads.get(&worker.0.into(), 0).map_err(load_error)
    }

    fn reset_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError> {
        let load = WorkerLoad::new(report.in_flight, report.capacity);
        self.loads
            .set(worker.0.into(), load, 0)
            .map_err(load_error)?;
        self.reset_counters(worker)
            .map_err(|source| WriteError::Kernel {
                map: name::WORKER_COUNTERS,
                source: Box::new(source.into()),
            })
    }

    fn report_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError> {
        let load = self.loads.get(&worker.0.into(), 0).map_err(load_error)?;
        if load.sequence != 0 {
            return Ok(());
        }
        let load = reported(load, report);
        self.loads.set(worker.0.into(), load, 0).map_err(load_error)
    }

    fn restart_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError> {
        let load = self.loads.get(&worker.0.into(), 0).map_err(load_error)?;
        let load = restarted(load, report);
        self.loads.set(worker.0.into(), load, 0).map_err(load_error)
    }
}

/// The row of a worker that sends no LOAD packets, after a heartbeat. Requests that the program counts between reading
/// the row and writing it are lost to it until the next heartbeat, as those on their way to the worker are.
const fn reported(load: WorkerLoad, report: Report) -> WorkerLoad {
    WorkerLoad {
        sent_at_report: load.sent,
        in_flight: report.in_flight,
        capacity: report.capacity,
        ..load
    }
}

/// The row of a worker that has sent no LOAD packet since it started, or whose LOAD packets do not come any more.
const fn restarted(load: WorkerLoad, report: Report) -> WorkerLoad {
    WorkerLoad {
        sent: load.sent,
        sent_at_report: load.sent,
        ..WorkerLoad::new(report.in_flight, report.capacity)
    }
}

fn load_error(source: MapError) -> WriteError {
    WriteError::Kernel {
        map: name::WORKER_LOAD,
        source: Box::new(source.into()),
    }
}

/// The program finds a row by masking a hash, so only as many rows as a power of two are of use.
pub(super) fn usable_rows(pin_path: &Path, name: &str) -> Result<u32, OpenError> {
    let rows = open::max_entries(pin_path, name)?;
    Ok(if rows.is_power_of_two() {
        rows
    } else {
        rows.next_power_of_two() / 2
    })
}

fn gone_is_fine(result: Result<(), MapError>) -> Result<(), XdpMapError> {
    let result = result.map_err(XdpMapError::from);
    match result {
        Err(error) if errno(&error) == Some(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

fn errno(error: &XdpMapError) -> Option<Errno> {
    match error {
        XdpMapError::MapError(MapError::SyscallError(error)) => {
            error.io_error.raw_os_error().map(Errno::from_raw)
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    /// Maps without a kernel; refuses the writes that `refuse` says.
    pub(crate) struct FakeMaps {
        pub(crate) tables: ActualTables,
        pub(crate) loads: Vec<WorkerLoad>,
        pub(crate) refuse: fn(&MapWrite) -> bool,
    }

    impl FakeMaps {
        pub(crate) fn new(tables: ActualTables, refuse: fn(&MapWrite) -> bool) -> Self {
            let loads = vec![WorkerLoad::new(0, 0); tables.workers.len()];
            Self {
                tables,
                loads,
                refuse,
            }
        }
    }

    impl MapStore for FakeMaps {
        fn load(&self, worker: WorkerId) -> Result<WorkerLoad, WriteError> {
            Ok(self.loads[usize::from(worker.0)])
        }

        fn reset_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError> {
            self.loads[usize::from(worker.0)] = WorkerLoad::new(report.in_flight, report.capacity);
            Ok(())
        }

        fn report_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError> {
            let load = &mut self.loads[usize::from(worker.0)];
            if load.sequence == 0 {
                *load = reported(*load, report);
            }
            Ok(())
        }

        fn restart_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError> {
            let load = &mut self.loads[usize::from(worker.0)];
            *load = restarted(*load, report);
            Ok(())
        }

        fn write(&mut self, write: &MapWrite) -> Result<(), WriteError> {
            if (self.refuse)(write) {
                return Err(WriteError::Kernel {
                    map: write.map(),
                    source: Box::new(XdpMapError::MapError(MapError::KeyNotFound)),
                });
            }
            self.tables.apply(write);
            Ok(())
        }
    }
}
