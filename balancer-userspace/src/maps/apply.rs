//! Writing to the maps, and reading once what they hold.

use std::{fmt, path::Path};

use aya::maps::{Array, DevMapHash, HashMap, MapData, MapError, xdp::XdpMapError};
use ebpf_common::{
    ids::WorkerId,
    maps::{Config, FunctionEntry, Vip6Key, VipInfo, VipKey, WorkerInfo, WorkerLoad, name},
};
use nix::errno::Errno;
use thiserror::Error;

use super::{OpenError, open};
use crate::{
    loads::Report,
    reconcile::tables::{ActualTables, AnyVipKey, MapWrite},
};

/// The kernel did not take a write.
#[derive(Debug, Error)]
#[error("cannot write map {map}{}", mend(.source))]
pub struct WriteError {
    /// The map.
    pub map: &'static str,
    /// The cause.
    #[source]
    pub source: Box<XdpMapError>,
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

    /// Gives `worker`'s row of `WORKER_LOAD` to a worker that has not sent a LOAD packet yet.
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
}

/// How many rows the tables of places have: powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceRows {
    /// Of `SESSIONS`.
    pub sessions: u32,
    /// Of `FLOWS`.
    pub flows: u32,
}

/// The pinned maps, open.
pub struct KernelMaps {
    config: Array<MapData, Config>,
    vips: HashMap<MapData, VipKey, VipInfo>,
    vips6: HashMap<MapData, Vip6Key, VipInfo>,
    vip_filter: Array<MapData, u64>,
    workers: Array<MapData, WorkerInfo>,
    loads: Array<MapData, WorkerLoad>,
    functions: HashMap<MapData, u64, FunctionEntry>,
    slots: Array<MapData, u16>,
    home: Array<MapData, u16>,
    ports: DevMapHash<MapData>,
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
        Ok(Self {
            config: open::array(pin_path, name::CONFIG)?,
            vips: open::hash(pin_path, name::VIPS)?,
            vips6: open::hash(pin_path, name::VIPS6)?,
            vip_filter: open::array(pin_path, name::VIP_FILTER)?,
            session_rows: rows(pin_path, name::SESSIONS)?,
            flow_rows: rows(pin_path, name::FLOWS)?,
            workers: open::array(pin_path, name::WORKERS)?,
            loads: open::array(pin_path, name::WORKER_LOAD)?,
            functions: open::hash(pin_path, name::FUNCTIONS)?,
            slots: open::array(pin_path, name::SLOTS)?,
            home: open::array(pin_path, name::HOME)?,
            ports: open::ports(pin_path)?,
        })
    }

    /// Rows of `SESSIONS` and of `FLOWS` that the program can use.
    #[must_use]
    pub const fn place_rows(&self) -> PlaceRows {
        PlaceRows {
            sessions: self.session_rows,
            flows: self.flow_rows,
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
            .iter()
            .map(|row| row.map(|(key, info)| (AnyVipKey::V4(key), info)));
        let v6 = self
            .vips6
            .iter()
            .map(|row| row.map(|(key, info)| (AnyVipKey::V6(key), info)));
        Ok(ActualTables {
            vips: v4.chain(v6).collect::<Result<_, _>>()?,
            vip_filter: self.vip_filter.iter().collect::<Result<_, _>>()?,
            workers: self.workers.iter().collect::<Result<_, _>>()?,
            functions: self.functions.iter().collect::<Result<_, _>>()?,
            slots: ids(&self.slots)?,
            home: ids(&self.home)?,
            ports: self.ports.keys().collect::<Result<_, _>>()?,
            config: self.config.get(&0, 0)?,
        })
    }
}

impl MapStore for KernelMaps {
    fn write(&mut self, write: &MapWrite) -> Result<(), WriteError> {
        let result = match *write {
            MapWrite::AddPort(ifindex) => self.ports.insert(ifindex, ifindex, None, 0),
            // The kernel itself removes the entry of an interface that goes away.
            MapWrite::RemovePort(ifindex) => gone_is_fine(self.ports.remove(ifindex)),
            MapWrite::Worker(id, info) => {
                self.workers.set(id.0.into(), info, 0).map_err(Into::into)
            }
            MapWrite::Function(id, entry) => {
                self.functions.insert(id, entry, 0).map_err(Into::into)
            }
            MapWrite::RemoveFunction(id) => gone_is_fine(self.functions.remove(&id)),
            MapWrite::Slot(index, owner) => self.slots.set(index, owner.0, 0).map_err(Into::into),
            MapWrite::Home(index, worker) => self.home.set(index, worker.0, 0).map_err(Into::into),
            MapWrite::Config(config) => self.config.set(0, config, 0).map_err(Into::into),
            MapWrite::Vip(AnyVipKey::V4(key), info) => {
                self.vips.insert(key, info, 0).map_err(Into::into)
            }
            MapWrite::Vip(AnyVipKey::V6(key), info) => {
                self.vips6.insert(key, info, 0).map_err(Into::into)
            }
            MapWrite::RemoveVip(AnyVipKey::V4(key)) => gone_is_fine(self.vips.remove(&key)),
            MapWrite::RemoveVip(AnyVipKey::V6(key)) => gone_is_fine(self.vips6.remove(&key)),
            MapWrite::VipFilter(index, word) => {
                self.vip_filter.set(index, word, 0).map_err(Into::into)
            }
        };
        result.map_err(|source| WriteError {
            map: write.map(),
            source: Box::new(source),
        })
    }

    fn reset_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError> {
        let load = WorkerLoad::new(report.in_flight, report.capacity);
        self.loads.set(worker.0.into(), load, 0).map_err(load_error)
    }

    fn report_load(&mut self, worker: WorkerId, report: Report) -> Result<(), WriteError> {
        let load = self.loads.get(&worker.0.into(), 0).map_err(load_error)?;
        if load.sequence != 0 {
            return Ok(());
        }
        let load = reported(load, report);
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

fn load_error(source: MapError) -> WriteError {
    WriteError {
        map: name::WORKER_LOAD,
        source: Box::new(source.into()),
    }
}

/// The program finds a row by masking a hash, so only as many rows as a power of two are of use.
fn rows(pin_path: &Path, name: &str) -> Result<u32, OpenError> {
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

        fn write(&mut self, write: &MapWrite) -> Result<(), WriteError> {
            if (self.refuse)(write) {
                return Err(WriteError {
                    map: write.map(),
                    source: Box::new(XdpMapError::MapError(MapError::KeyNotFound)),
                });
            }
            self.tables.apply(write);
            Ok(())
        }
    }
}
