//! Reading the pinned maps for people. Works with no control plane running.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use aya::{
    Pod,
    maps::{Array, MapData, MapError, PerCpuArray},
};
use ebpf_common::{
    limits::{MAGLEV_TABLE_LEN, MAX_POOLS, PLACES_PER_ROW, SLOTS},
    maps::{
        Affinity, Config, Counter, FunctionEntry, FunctionRow, PktgenInfo, Place, PlaceRow,
        TopFunction, Traffic, Vip6Row, VipInfo, VipKind, VipRow, WorkerInfo, WorkerLoad, name,
    },
    schema::{NAME_MAX, PATH_MAX, SchemaEntry},
};
use serde_json::{Value, json};
use thiserror::Error;

use super::{OpenError, open};
use crate::{
    api::types::{CounterValue, MapDump, MapInfo},
    mac::MacAddress,
    reconcile::tables::AnyVipKey,
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
        Ok(Self(open::per_cpu(pin_path, name::COUNTERS)?))
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

    /// A counter, summed over the CPUs.
    ///
    /// # Errors
    /// [`ReadError::Read`].
    pub fn sum(&self, counter: Counter) -> Result<u64, ReadError> {
        Ok(self.per_cpu(counter)?.iter().sum())
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

pub(super) fn counter_value((counter, value): (Counter, u64)) -> CounterValue {
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

/// Bytes that each map takes, as the kernel charges it (`memlock` of its fdinfo).
///
/// # Errors
/// [`ReadError`].
pub fn memory(pin_path: &Path) -> Result<Vec<u64>, ReadError> {
    let bytes = |name: &&str| {
        let data = open::data(pin_path, name)?;
        let fd = data.fd().as_fd().as_raw_fd();
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        Ok(line.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
    };
    name::ALL.iter().map(bytes).collect()
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
                rows.push(config_row(&config));
            }
        }
        name::VIPS => {
            for row in array::<VipRow>(pin_path, name)? {
                if row != VipRow::EMPTY {
                    rows.push(vip_row(AnyVipKey::V4(row.key), &row.info));
                }
            }
        }
        name::VIPS6 => {
            for row in array::<Vip6Row>(pin_path, name)? {
                if row != Vip6Row::EMPTY {
                    rows.push(vip_row(AnyVipKey::V6(row.key), &row.info));
                }
            }
        }
        name::VIP_FILTER => {
            let words = array::<u64>(pin_path, name)?;
            let bits: u32 = words.iter().map(|word| word.count_ones()).sum();
            rows.push(json!({ "bits": words.len() * 64, "set": bits }));
        }
        name::WORKERS => {
            for (id, info) in (0..).zip(array::<WorkerInfo>(pin_path, name)?) {
                if info != WorkerInfo::ABSENT {
                    rows.push(worker_row(id, &info));
                }
            }
        }
        name::WORKER_LOAD => {
            for (id, load) in (0u16..).zip(array::<WorkerLoad>(pin_path, name)?) {
                if load != WorkerLoad::new(0, 0) {
                    rows.push(load_row(id, &load));
                }
            }
        }
        name::FUNCTIONS => {
            for row in array::<FunctionRow>(pin_path, name)? {
                if row.function != 0 {
                    rows.push(function_row(row.function, &row.entry));
                }
            }
        }
        name::SESSIONS | name::FLOWS => places(pin_path, name, &mut rows)?,
        name::SCHEMAS => {
            for (row, schema) in (0u32..).zip(&array::<SchemaEntry>(pin_path, name)?) {
                if *schema != SchemaEntry::EMPTY {
                    rows.push(schema_row(row, schema));
                }
            }
        }
        // Memory that the program uses within one packet; and what program `decap` of a worker has: here it is empty.
        name::SCHEMA_SCRATCH | name::OPAQUE | name::DECAP => {}
        police if super::police::is_ours(police) => {
            super::police::dump(pin_path, police, &mut rows)?;
        }
        name::SLOTS => generations(pin_path, name, SLOTS, &mut rows)?,
        name::HOME => generations(pin_path, name, MAX_POOLS * MAGLEV_TABLE_LEN, &mut rows)?,
        name::PKTGEN => {
            for (row, info) in (0u32..).zip(array::<PktgenInfo>(pin_path, name)?) {
                if info.functions_len > 0 {
                    rows.push(pktgen_row(row, &info));
                }
            }
        }
        name::VIP_COUNTERS => traffic(pin_path, name, "vip_id", &mut rows)?,
        name::WORKER_COUNTERS => traffic(pin_path, name, "worker", &mut rows)?,
        name::FUNCTION_COUNTERS => {
            for top in per_cpu::<TopFunction>(pin_path, name)?
                .into_iter()
                .flatten()
            {
                if top.function != 0 {
                    rows.push(json!({
                        "function": format!("{:016x}", top.function),
                        "packets": top.packets,
                    }));
                }
            }
        }
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
pub(super) struct Rows {
    entries: Vec<Value>,
    left_out: u64,
}

impl Rows {
    pub(super) fn push(&mut self, row: Value) {
        if self.entries.len() < DUMP_MAX {
            self.entries.push(row);
        } else {
            self.left_out += 1;
        }
    }
}

pub(super) fn read_error(map: &str) -> impl Fn(MapError) -> ReadError + use<'_> {
    move |source| ReadError::Read {
        map: map.to_owned(),
        source: Box::new(source),
    }
}

pub(super) fn array<V: Pod>(pin_path: &Path, name: &str) -> Result<Vec<V>, ReadError> {
    let map: Array<MapData, V> = open::array(pin_path, name)?;
    map.iter()
        .collect::<Result<_, _>>()
        .map_err(read_error(name))
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
            if name == name::HOME && worker.is_none() {
                first = last + 1;
                continue;
            }
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

fn config_row(config: &Config) -> Value {
    json!({
        "generation": config.generation,
        "key_epoch": config.key_epoch,
        "features": format!("{:#x}", config.features),
        "home_bound": config.home_bound,
        "session_rows": config.session_mask + 1,
        "flow_rows": config.flow_mask + 1,
        "shed_percent": config.shed_percent,
        "source_interval_ns": config.source_rate.interval_ns,
        "unknown_interval_ns": config.unknown_rate.interval_ns,
        "answer_interval_ns": config.answer_rate.interval_ns,
        "eviction_interval_ns": config.eviction_rate.interval_ns,
        "tunnel_v4": Ipv4Addr::from(config.tunnel_v4),
        "tunnel_v6": Ipv6Addr::from(config.tunnel_v6),
        "keys": "not shown",
    })
}

fn vip_row(key: AnyVipKey, info: &VipInfo) -> Value {
    let (address, port, protocol) = key.parts();
    let kind = info.kind().map_or("unknown", VipKind::name);
    if info.kind() == Some(VipKind::Address) {
        return json!({ "vip_id": info.vip_id, "address": address, "kind": kind });
    }
    json!({
        "vip_id": info.vip_id,
        "address": address,
        "port": if port == 0 { json!("any") } else { json!(port) },
        "protocol": protocol_name(protocol),
        "kind": kind,
        "forward": info.forward().name(),
        "pool": info.pool,
    })
}

/// The name of an IP protocol.
pub(crate) fn protocol_name(protocol: u8) -> String {
    match protocol {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn load_row(id: u16, load: &WorkerLoad) -> Value {
    json!({
        "worker": id,
        "in_flight": load.in_flight_now(),
        "capacity": load.capacity,
        "sent": load.sent,
        "received": load.received,
        "completed": load.completed,
        "sequence": load.sequence,
        "reported_ns": load.reported_ns,
    })
}

/// How full a table of places is, and with whose entries. What the entries are of is not kept in it.
fn places(pin_path: &Path, name: &str, rows: &mut Rows) -> Result<(), ReadError> {
    let mut by_worker: BTreeMap<u16, u64> = BTreeMap::new();
    let table = array::<PlaceRow>(pin_path, name)?;
    let (mut full_rows, mut used) = (0u64, 0u64);
    for row in &table {
        let entries = row.places.iter().map(|place| Place(*place));
        let in_row: Vec<Place> = entries.filter(|place| !place.is_empty()).collect();
        used += in_row.len() as u64;
        full_rows += u64::from(in_row.len() == PLACES_PER_ROW as usize);
        for place in in_row {
            *by_worker.entry(place.worker().0).or_default() += 1;
        }
    }
    let places = table.len() as u64 * u64::from(PLACES_PER_ROW);
    rows.push(json!({ "places": places, "entries": used, "full_rows": full_rows }));
    for (worker, entries) in by_worker {
        rows.push(json!({ "worker": worker, "entries": entries }));
    }
    Ok(())
}

fn pktgen_row(row: u32, info: &PktgenInfo) -> Value {
    let len = (info.functions_len as usize).min(info.functions.len());
    let functions = info.functions[..len].iter();
    json!({
        "row": row,
        "sessions": info.sessions,
        "functions": functions.map(|id| format!("{id:016x}")).collect::<Vec<_>>(),
    })
}

pub(super) fn per_cpu<V: Pod>(pin_path: &Path, name: &str) -> Result<Vec<Vec<V>>, ReadError> {
    let map: PerCpuArray<MapData, V> = open::per_cpu(pin_path, name)?;
    map.iter()
        .map(|values| values.map(|values| values.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(read_error(name))
}

fn traffic(pin_path: &Path, name: &str, of: &str, rows: &mut Rows) -> Result<(), ReadError> {
    for (index, cpus) in (0u32..).zip(per_cpu::<Traffic>(pin_path, name)?) {
        let packets: u64 = cpus.iter().map(|cpu| cpu.packets).sum();
        let bytes: u64 = cpus.iter().map(|cpu| cpu.bytes).sum();
        if packets > 0 {
            rows.push(json!({ of: index, "packets": packets, "bytes": bytes }));
        }
    }
    Ok(())
}

fn worker_row(id: u16, info: &WorkerInfo) -> Value {
    json!({
        "worker": id,
        "state": info.state().name(),
        "ifindex": info.ifindex,
        "dst_mac": MacAddress::new(info.dst_mac),
        "src_mac": MacAddress::new(info.src_mac),
        "weight": info.weight,
        "addr4": Ipv4Addr::from(info.addr4),
        "addr6": Ipv6Addr::from(info.addr6),
        "cap": info.cap,
        "mtu": info.mtu,
        "flags": info.flags,
    })
}

/// As a manifest says it, and what the key is used for.
fn schema_row(row: u32, schema: &SchemaEntry) -> Value {
    json!({ "row": row, "target": schema_target(schema), "schema": schema_shown(schema) })
}

/// What a schema's key is for.
pub(super) const fn schema_target(schema: &SchemaEntry) -> &'static str {
    match schema.target {
        1 => "session",
        2 => "slot",
        _ => "unknown",
    }
}

/// A schema as a manifest writes it.
pub(super) fn schema_shown(schema: &SchemaEntry) -> Value {
    let len = usize::from(schema.len);
    match schema.kind {
        1 => json!({ "fixed": { "offset": schema.offset, "size": schema.size } }),
        2 => json!({ "protobuf": schema.path[..len.min(PATH_MAX)] }),
        3 => json!({ "json": String::from_utf8_lossy(&schema.name[..len.min(NAME_MAX)]) }),
        kind => json!({ "unknown": kind }),
    }
}

fn function_row(id: u64, entry: &FunctionEntry) -> Value {
    let warm_len = usize::from(entry.warm_len).min(entry.warm.len());
    json!({
        "function": format!("{id:016x}"),
        "affinity": affinity_name(entry.affinity()),
        "warm": &entry.warm[..warm_len],
    })
}

pub(crate) const fn affinity_name(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::None => "none",
        Affinity::Session => "session",
        Affinity::Shard => "shard",
    }
}
