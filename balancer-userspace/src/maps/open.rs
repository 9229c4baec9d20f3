//! Opening pinned maps, typed.

use std::path::{Path, PathBuf};

use aya::{
    Pod,
    maps::{Array, DevMapHash, LpmTrie, Map, MapData, MapError, PerCpuArray},
};
use thiserror::Error;

/// Why a pinned map cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It is not there, or we may not open it.
    #[error(
        "cannot open the pinned map {path}: has `warmpath balancer` been started with this pin_path, and are you root?"
    )]
    Open {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<MapError>,
    },
    /// It is of another type, or its keys or values have another size.
    #[error("the pinned map {path} is not what this version expects; another version made it")]
    Type {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<MapError>,
    },
}

pub(super) fn data(pin_path: &Path, name: &str) -> Result<MapData, OpenError> {
    let path = pin_path.join(name);
    MapData::from_pin(&path).map_err(|source| OpenError::Open {
        path,
        source: Box::new(source),
    })
}

/// How many entries a map was made for.
pub(super) fn max_entries(pin_path: &Path, name: &str) -> Result<u32, OpenError> {
    let data = data(pin_path, name)?;
    let info = data.info().map_err(|source| OpenError::Type {
        path: pin_path.join(name),
        source: Box::new(source),
    })?;
    Ok(info.max_entries())
}

fn typed<T>(pin_path: &Path, name: &str) -> Result<T, OpenError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let wrong = |source| OpenError::Type {
        path: pin_path.join(name),
        source: Box::new(source),
    };
    let map = Map::from_map_data(data(pin_path, name)?).map_err(wrong)?;
    T::try_from(map).map_err(wrong)
}

pub(super) fn array<V: Pod>(pin_path: &Path, name: &str) -> Result<Array<MapData, V>, OpenError> {
    typed(pin_path, name)
}

pub(super) fn trie<K: Pod, V: Pod>(
    pin_path: &Path,
    name: &str,
) -> Result<LpmTrie<MapData, K, V>, OpenError> {
    typed(pin_path, name)
}

pub(super) fn ports(pin_path: &Path) -> Result<DevMapHash<MapData>, OpenError> {
    typed(pin_path, ebpf_common::maps::name::PORTS)
}

pub(super) fn per_cpu<V: Pod>(
    pin_path: &Path,
    name: &str,
) -> Result<PerCpuArray<MapData, V>, OpenError> {
    typed(pin_path, name)
}
