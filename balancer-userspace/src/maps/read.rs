//! Reading the pinned maps for people. Works with no control plane running.

use std::{fmt, path::Path};

use aya::{
    Pod,
    maps::{Array, MapData, MapError, PerCpuArray},
};
use ebpf_common::{
    limits::{MAGLEV_TABLE_LEN, SLOTS},
    maps::{
        Affinity, Config, Counter, FunctionEntry, SessionEntry, SessionKey, VipInfo, VipKey,
        VipKind, WorkerInfo, WorkerLoad, name,
    },
};
use serde_json::{Value, json};
use thiserror::Error;

use super::{OpenError, open};
use crate::{
    api::types::{CounterValue, MapDump, MapInfo},
    mac::MacAddress,
};

/// Entries in one dump; a map may hold millions.
const DUMP_MAX: usize = 200_000;

/// Why a map cannot be shown.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no map of this name.
    #[error("there is no map `{name}`; the maps are {}", name::ALL.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The kernel did not let us read it.
    #[error("cannot read map {map}")]
    Read {
        /// The map.
        map: String,
        /// The cause.
        #[source]
        source: Box<MapError>,
    },
}

/// The `COUNTERS` map, open.
pub struct Counters(PerCpuArray<MapData, u64>);

// aya's maps have no Debug of their own.
impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    /// Opens the one pinned at `pin_path`.
    ///
    /// # Errors
    /// [`ReadError::Open`].
    pub fn open(pin_path: &Path) -> Result<Self, ReadError> {
        Ok(Self(open::counters(pin_path)?))
    }

    /// A counter's value on each CPU.
    ///
    /// # Errors
    /// [`ReadError::Read`].
    pub fn per_cpu(&self, counter: Counter) -> Result<Vec<u64>, ReadError> {
        let values = self
            .0
            .get(&(counter as u32), 0)
            .map_err(read_error(name::COUNTERS))?;
        Ok(values.to_vec())
    }

    /// Every counter, summed over the CPUs, in the order of its index.
    ///
    /// # Errors
    /// [`ReadError::Read`].
    pub fn sums(&self) -> Result<Vec<(Counter, u64)>, ReadError> {
        Counter::ALL
            .iter()
            .map(|counter| Ok((*counter, self.per_cpu(*counter)?.iter().sum())))
            .collect()
    }
}

/// Every counter of the data plane at `pin_path`.
///
/// # Errors
/// [`ReadError`].
pub fn counters(pin_path: &Path) -> Result<Vec<CounterValue>, ReadError> {
    let sums = Counters::open(pin_path)?.sums()?;
    Ok(sums.into_iter().map(counter_value).collect())
}

fn counter_value((counter, value): (Counter, u64)) -> CounterValue {
    CounterValue {
        class: counter.class().name().to_owned(),
        label: counter.label().to_owned(),
        value,
        help: counter.help().to_owned(),
    }
}

/// The maps pinned at `pin_path`.
///
/// # Errors
/// [`ReadError`].
pub fn list(pin_path: &Path) -> Result<Vec<MapInfo>, ReadError> {
    name::ALL.iter().map(|name| info(pin_path, name)).collect()
}

fn info(pin_path: &Path, name: &str) -> Result<MapInfo, ReadError> {
    let info = open::data(pin_path, name)?
        .info()
        .map_err(read_error(name))?;
    Ok(MapInfo {
        name: name.to_owned(),
        id: info.id(),
        key_bytes: info.key_size(),
        value_bytes: info.value_size(),
        max_entries: info.max_entries(),
    })
}

/// The entries of map `name` at `pin_path`, with named fields. Cookie keys are not shown.
///
/// # Errors
/// [`ReadError`].
pub fn dump(pin_path: &Path, name: &str) -> Result<MapDump, ReadError> {
    let mut rows = Rows::default();
    match name {
        name::LAYOUT => {
            for version in array::<u32>(pin_path, name)? {
                rows.push(json!({ "layout_version": version }));
            }
        }
        name::CONFIG => {
            for config in array::<Config>(pin_path, name)? {
                rows.push(json!({
                    "generation": config.generation,
                    "cookie_epoch": config.cookie_epoch,
                    "cookie_keys": "not shown",
                }));
            }
        }
        name::VIPS => hash(pin_path, name, &mut rows, vip_row)?,
        name::WORKERS => {
            for (id, info) in (0..).zip(array::<WorkerInfo>(pin_path, name)?) {
                if info != WorkerInfo::ABSENT {
                    rows.push(worker_row(id, &info));
                }
            }
        }
        name::WORKER_LOAD => {
            for (id, load) in (0u16..).zip(array::<WorkerLoad>(pin_path, name)?) {
                if load.capacity != 0 || load.in_flight != 0 {
                    let (in_flight, capacity) = (load.in_flight, load.capacity);
                    rows.push(
                        json!({ "worker": id, "in_flight": in_flight, "capacity": capacity }),
                    );
                }
            }
        }
        name::FUNCTIONS => hash(pin_path, name, &mut rows, function_row)?,
        name::SESSIONS => hash(pin_path, name, &mut rows, session_row)?,
        name::SLOTS => generations(pin_path, name, SLOTS, &mut rows)?,
        name::HOME => generations(pin_path, name, MAGLEV_TABLE_LEN, &mut rows)?,
        name::PORTS => {
            for ifindex in open::ports(pin_path)?.keys() {
                rows.push(json!({ "ifindex": ifindex.map_err(read_error(name))? }));
            }
        }
        name::COUNTERS => {
            for (counter, value) in Counters::open(pin_path)?.sums()? {
                rows.push(json!({
                    "class": counter.class().name(),
                    "label": counter.label(),
                    "value": value,
                }));
            }
        }
        _ => {
            return Err(ReadError::Unknown {
                name: name.to_owned(),
            });
        }
    }
    Ok(MapDump {
        map: info(pin_path, name)?,
        entries: rows.entries,
        left_out: rows.left_out,
    })
}

/// Entries up to [`DUMP_MAX`], and a count of the rest.
#[derive(Default)]
struct Rows {
    entries: Vec<Value>,
    left_out: u64,
}

impl Rows {
    fn push(&mut self, row: Value) {
        if self.entries.len() < DUMP_MAX {
            self.entries.push(row);
        } else {
            self.left_out += 1;
        }
    }
}

fn read_error(map: &str) -> impl Fn(MapError) -> ReadError + use<'_> {
    move |source| ReadError::Read {
        map: map.to_owned(),
        source: Box::new(source),
    }
}

fn array<V: Pod>(pin_path: &Path, name: &str) -> Result<Vec<V>, ReadError> {
    let map: Array<MapData, V> = open::array(pin_path, name)?;
    map.iter()
        .collect::<Result<_, _>>()
        .map_err(read_error(name))
}

fn hash<K: Pod, V: Pod>(
    pin_path: &Path,
    name: &str,
    rows: &mut Rows,
    row: impl Fn(&K, &V) -> Value,
) -> Result<(), ReadError> {
    let map = open::hash::<K, V>(pin_path, name)?;
    for key in map.keys() {
        let key = key.map_err(read_error(name))?;
        match map.get(&key, 0) {
            Ok(value) => rows.push(row(&key, &value)),
            // Gone since its key was read: an LRU does that.
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(read_error(name)(error)),
        }
    }
    Ok(())
}

/// Both copies of a double-buffered table, as runs of equal entries.
fn generations(pin_path: &Path, name: &str, len: u32, rows: &mut Rows) -> Result<(), ReadError> {
    let live = array::<Config>(pin_path, name::CONFIG)?
        .first()
        .map_or(0, |config| config.generation & 1);
    let entries = array::<u16>(pin_path, name)?;
    for (copy, table) in (0u32..).zip(entries.chunks(len as usize)) {
        let mut first = 0;
        for run in table.chunk_by(|a, b| a == b) {
            let last = first + run.len() - 1;
            let worker = run.first().copied().filter(|id| *id != u16::MAX);
            rows.push(json!({
                "generation": copy,
                "live": copy == live,
                "first": first,
                "last": last,
                "worker": worker,
            }));
            first = last + 1;
        }
    }
    Ok(())
}

fn vip_row(key: &VipKey, info: &VipInfo) -> Value {
    let address = std::net::Ipv4Addr::from(key.addr);
    if info.kind == VipKind::Address as u8 {
        json!({ "vip_id": info.vip_id, "address": address, "kind": "address" })
    } else {
        json!({
            "vip_id": info.vip_id,
            "address": address,
            "port": u16::from_be_bytes(key.port),
            "protocol": if key.protocol == 17 { json!("udp") } else { json!(key.protocol) },
            "kind": "rpc",
        })
    }
}

fn worker_row(id: u16, info: &WorkerInfo) -> Value {
    json!({
        "worker": id,
        "state": info.state().name(),
        "ifindex": info.ifindex,
        "dst_mac": MacAddress::new(info.dst_mac),
        "src_mac": MacAddress::new(info.src_mac),
    })
}

fn function_row(id: &u64, entry: &FunctionEntry) -> Value {
    let warm_len = usize::from(entry.warm_len).min(entry.warm.len());
    json!({
        "function": format!("{id:016x}"),
        "affinity": affinity_name(entry.affinity()),
        "warm": &entry.warm[..warm_len],
    })
}

fn session_row(key: &SessionKey, entry: &SessionEntry) -> Value {
    json!({
        "function": format!("{:016x}", key.function),
        "session": format!("{:016x}", key.session),
        "worker": entry.worker,
    })
}

pub(crate) const fn affinity_name(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::None => "none",
        Affinity::Session => "session",
        Affinity::Shard => "shard",
    }
}
