//! Writing to the maps, and reading once what they hold.

use std::{fmt, path::Path};

use aya::maps::{Array, DevMapHash, HashMap, MapData, MapError, xdp::XdpMapError};
use ebpf_common::{
    ids::WorkerId,
    maps::{Config, FunctionEntry, VipInfo, VipKey, WorkerInfo, WorkerLoad, name},
};
use nix::errno::Errno;
use thiserror::Error;

use super::{OpenError, open};
use crate::reconcile::tables::{ActualTables, MapWrite};

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
}

/// The pinned maps, open.
pub struct KernelMaps {
    config: Array<MapData, Config>,
    vips: HashMap<MapData, VipKey, VipInfo>,
    workers: Array<MapData, WorkerInfo>,
    loads: Array<MapData, WorkerLoad>,
    functions: HashMap<MapData, u64, FunctionEntry>,
    slots: Array<MapData, u16>,
    home: Array<MapData, u16>,
    ports: DevMapHash<MapData>,
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
            workers: open::array(pin_path, name::WORKERS)?,
            loads: open::array(pin_path, name::WORKER_LOAD)?,
            functions: open::hash(pin_path, name::FUNCTIONS)?,
            slots: open::array(pin_path, name::SLOTS)?,
            home: open::array(pin_path, name::HOME)?,
            ports: open::ports(pin_path)?,
        })
    }

    /// Everything the maps hold.
    ///
    /// # Errors
    /// The kernel's, if a map cannot be read.
    pub fn read(&self) -> Result<ActualTables, MapError> {
        let ids = |table: &Array<MapData, u16>| -> Result<Vec<WorkerId>, MapError> {
            table.iter().map(|id| Ok(WorkerId(id?))).collect()
        };
        Ok(ActualTables {
            vips: self.vips.iter().collect::<Result<_, _>>()?,
            workers: self.workers.iter().collect::<Result<_, _>>()?,
            loads: self.loads.iter().collect::<Result<_, _>>()?,
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
            MapWrite::Load(id, load) => self.loads.set(id.0.into(), load, 0).map_err(Into::into),
            MapWrite::Function(id, entry) => {
                self.functions.insert(id, entry, 0).map_err(Into::into)
            }
            MapWrite::RemoveFunction(id) => gone_is_fine(self.functions.remove(&id)),
            MapWrite::Slot(index, owner) => self.slots.set(index, owner.0, 0).map_err(Into::into),
            MapWrite::Home(index, worker) => self.home.set(index, worker.0, 0).map_err(Into::into),
            MapWrite::Config(config) => self.config.set(0, config, 0).map_err(Into::into),
            MapWrite::Vip(key, info) => self.vips.insert(key, info, 0).map_err(Into::into),
            MapWrite::RemoveVip(key) => gone_is_fine(self.vips.remove(&key)),
        };
        result.map_err(|source| WriteError {
            map: write.map(),
            source: Box::new(source),
        })
    }
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
        pub(crate) refuse: fn(&MapWrite) -> bool,
    }

    impl MapStore for FakeMaps {
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
