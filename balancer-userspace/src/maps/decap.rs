//! Program `decap` on a worker: attached for as long as the worker's process lives.
//!
//! Its maps are pinned for `warmpath worker decap`, its link is not: when the process ends, however it ends, the kernel takes
//! the program off. Pins that a killed process left are removed by the next start.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapError},
    programs::{ProgramInfo, Xdp, links::FdLink, loaded_links},
};
use ebpf_common::{
    LAYOUT_VERSION,
    maps::{Counter, DecapRow, name},
};
use nix::ifaddrs::getifaddrs;
use thiserror::Error;
use tracing::info;

use super::{
    AttachError, Attachment, BpffsError, Counters, LoadError, OpenError, PrivilegeError, ReadError,
    attach, bpffs, check_privilege, load, open, probe, read,
};
use crate::{
    api::types::{CounterValue, DecapStatus},
    decap::{DecapConfig, DecapProblem},
    object::object,
    ports::{Port, Ports, PortsError},
};

/// Name of the program in the object, and beginning of its pin's name: `decap_<ifindex>_<mode>`.
const PROGRAM: &str = "decap";
/// The maps that are pinned; `LAYOUT` says what the others are.
const PINNED: [&str; 3] = [name::DECAP, name::COUNTERS, name::LAYOUT];
/// What the program counts.
const COUNTED: [Counter; 8] = [
    Counter::Packets,
    Counter::PassNotEncapsulated,
    Counter::PassDecapsulated,
    Counter::DropDecapSource,
    Counter::DropDecapNested,
    Counter::DropDecapBad,
    Counter::DropNotConfigured,
    Counter::DropNotRewritten,
];

/// Why encapsulated packets are not taken.
#[derive(Debug, Error)]
pub enum DecapError {
    /// We may not.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// What is configured does not fit this host.
    #[error(transparent)]
    Config(#[from] DecapProblem),
    /// The network interfaces cannot be listed.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The interface's addresses cannot be listed.
    #[error("cannot list the addresses of this host")]
    Addresses(#[source] nix::Error),
    /// The program is not in the kernel.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The program is not attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Its counters cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Nothing is pinned.
    #[error(
        "no worker takes encapsulated packets with its maps at {pin_path}: is [decap] in its configuration, and is it running?"
    )]
    Nothing {
        /// Where it was looked for.
        pin_path: PathBuf,
    },
}

impl From<BpffsError> for DecapError {
    fn from(error: BpffsError) -> Self {
        Self::Load(error.into())
    }
}

impl From<OpenError> for DecapError {
    fn from(error: OpenError) -> Self {
        Self::Load(error.into())
    }
}

/// The program on an interface. Dropping it takes the program off and removes the pins.
pub struct Decap {
    attachment: Attachment,
    counters: Counters,
    _link: FdLink,
    _pins: Pins,
}

// aya's types have no Debug worth reading.
impl fmt::Debug for Decap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decap")
            .field("attachment", &self.attachment)
            .finish_non_exhaustive()
    }
}

impl Decap {
    /// Loads the program, says in its map what `config` says, and attaches it; in this order, so that it never runs without.
    ///
    /// # Errors
    /// [`DecapError`]; nothing is left behind then.
    pub fn start(config: &DecapConfig) -> Result<Self, DecapError> {
        check_privilege()?;
        config.check()?;
        let port = port(&config.interface)?;
        let row = config.row(&addresses(&config.interface)?)?;
        let object = object().map_err(LoadError::from)?;
        let mut ebpf = prepared(object)?;
        write(&mut ebpf, &row)?;
        bpffs::ensure(&config.pin_path)?;
        let pins = Pins(config.pin_path.clone());
        pins.remove().map_err(|source| LoadError::Replace {
            path: config.pin_path.clone(),
            source,
        })?;
        pins.pin_maps(&ebpf)?;
        let program = load::verified(&mut ebpf, PROGRAM)?;
        let (link, mode) = attach::attach(program, &port, config.mode)?;
        pins.pin_program(program, port.ifindex, mode.name())?;
        info!(
            interface = port.name,
            mode = mode.name(),
            sources = config.sources.join(", "),
            "takes encapsulated packets"
        );
        Ok(Self {
            attachment: Attachment {
                interface: port.name,
                ifindex: port.ifindex,
                mode,
            },
            counters: Counters::open(&config.pin_path)?,
            _link: link,
            _pins: pins,
        })
    }

    /// Where and how it is attached.
    #[must_use]
    pub const fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// What it has counted so far.
    ///
    /// # Errors
    /// [`ReadError::Read`].
    pub fn counted(&self) -> Result<Vec<(Counter, u64)>, ReadError> {
        counted(&self.counters)
    }
}

fn counted(counters: &Counters) -> Result<Vec<(Counter, u64)>, ReadError> {
    COUNTED
        .into_iter()
        .map(|counter| Ok((counter, counters.sum(counter)?)))
        .collect()
}

fn port(interface: &str) -> Result<Port, DecapError> {
    let mut ports = Ports::read(&[interface.to_owned()])?;
    let missing = AttachError::NoInterface {
        interface: interface.to_owned(),
    };
    ports.0.pop().ok_or(DecapError::Attach(missing))
}

fn addresses(interface: &str) -> Result<Vec<IpAddr>, DecapError> {
    let mut addresses = host_addresses().map_err(DecapError::Addresses)?;
    Ok(addresses.remove(interface).unwrap_or_default())
}

/// The addresses of this host, by interface.
pub(crate) fn host_addresses() -> Result<BTreeMap<String, Vec<IpAddr>>, nix::Error> {
    let mut addresses = BTreeMap::<_, Vec<_>>::new();
    for entry in getifaddrs()? {
        let Some(address) = entry.address else {
            continue;
        };
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        if let Some(address) = v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into())) {
            let of_interface = addresses.entry(entry.interface_name).or_default();
            of_interface.push(address);
        }
    }
    Ok(addresses)
}

/// The object's maps, those of the balancer as small as they get: the program does not use them, and they go with `Ebpf`.
fn prepared(object: &[u8]) -> Result<Ebpf, LoadError> {
    let shapes = probe::map_shapes(object).map_err(|what| LoadError::Incomplete { what })?;
    let mut loader = EbpfLoader::new();
    let others = shapes
        .iter()
        .filter(|shape| !PINNED.contains(&shape.name.as_str()));
    for shape in others.filter(|shape| probe::may_shrink(shape)) {
        loader.map_max_entries(&shape.name, 1);
    }
    loader.load(object).map_err(load::prepare_error)
}

fn write(ebpf: &mut Ebpf, row: &DecapRow) -> Result<(), LoadError> {
    load::write_layout(ebpf)?;
    let map = ebpf
        .map_mut(name::DECAP)
        .ok_or_else(|| LoadError::Incomplete {
            what: format!("map {}", name::DECAP),
        })?;
    Array::<_, DecapRow>::try_from(map)
        .and_then(|mut rows| rows.set(0, row, 0))
        .map_err(|source| LoadError::Write {
            map: name::DECAP,
            source: Box::new(source),
        })
}

/// Our pins in a directory; they go when this does.
struct Pins(PathBuf);

impl Pins {
    fn pin_maps(&self, ebpf: &Ebpf) -> Result<(), LoadError> {
        for name in PINNED {
            let map = ebpf.map(name).ok_or_else(|| LoadError::Incomplete {
                what: format!("map {name}"),
            })?;
            let path = self.0.join(name);
            map.pin(&path).map_err(|source| LoadError::Pin {
                path,
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// The name of the pin says where the program runs and how: a reader need not ask.
    fn pin_program(&self, program: &mut Xdp, ifindex: u32, mode: &str) -> Result<(), LoadError> {
        let path = self.0.join(format!("{PROGRAM}_{ifindex}_{mode}"));
        program.pin(&path).map_err(|source| LoadError::Pin {
            path,
            source: Box::new(source),
        })
    }

    fn remove(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)?.flatten() {
            let file = entry.file_name();
            let file = file.to_string_lossy();
            if PINNED.contains(&&*file) || program_name(&file).is_some() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let removed = self.remove();
        let unmounted = bpffs::unmount_if_ours(&self.0);
        if let Err(error) = removed {
            let path = self.0.display();
            tracing::warn!(%path, %error, "pins of the worker's XDP program stay until its next start");
        } else if unmounted.is_ok() {
            // Somebody else's pins, or the mount itself, may be in the way.
            drop(fs::remove_dir(&self.0));
        }
    }
}

/// Interface index and mode of a program's pin.
fn program_name(file: &str) -> Option<(u32, &str)> {
    let (ifindex, mode) = file
        .strip_prefix(PROGRAM)?
        .strip_prefix('_')?
        .split_once('_')?;
    Some((ifindex.parse().ok()?, mode))
}

/// What the program whose maps are pinned at `pin_path` does, for people. Works beside the worker.
///
/// # Errors
/// [`DecapError`].
pub fn decap_status(pin_path: &Path) -> Result<DecapStatus, DecapError> {
    let nothing = || DecapError::Nothing {
        pin_path: pin_path.to_owned(),
    };
    let entries = fs::read_dir(pin_path).map_err(|_none| nothing())?;
    let files: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let program = files
        .iter()
        .find_map(|file| Some((file, program_name(file)?)));
    let (file, (ifindex, mode)) = program.ok_or_else(nothing)?;
    let layout = first::<u32>(pin_path, name::LAYOUT)?;
    if layout != LAYOUT_VERSION {
        return Err(DecapError::Load(LoadError::Layout {
            pin_path: pin_path.to_owned(),
            found: layout,
        }));
    }
    let row = first::<DecapRow>(pin_path, name::DECAP)?;
    let counters = counted(&Counters::open(pin_path)?)?;
    Ok(DecapStatus {
        interface: nix::net::if_::if_indextoname(ifindex)
            .ok()
            .and_then(|name| name.into_string().ok()),
        ifindex,
        mode: mode.to_owned(),
        attached: is_attached(&pin_path.join(file)),
        addresses: row_addresses(&row),
        sources: row_sources(&row),
        counters: counters
            .into_iter()
            .map(read::counter_value)
            .collect::<Vec<CounterValue>>(),
    })
}

fn first<T: aya::Pod>(pin_path: &Path, map: &'static str) -> Result<T, DecapError> {
    let rows = open::array::<T>(pin_path, map)?;
    rows.get(&0, 0).map_err(|source: MapError| {
        DecapError::Read(ReadError::Read {
            map: map.to_owned(),
            source: Box::new(source),
        })
    })
}

/// Whether any interface has the pinned program: a worker that was killed leaves pins, and no link.
fn is_attached(pin: &Path) -> bool {
    let Ok(program) = ProgramInfo::from_pin(pin) else {
        return false;
    };
    loaded_links()
        .flatten()
        .any(|link| link.program_id() == program.id())
}

/// The addresses in a row, for people.
pub(crate) fn row_addresses(row: &DecapRow) -> Vec<String> {
    let v4 = row.local4.iter().filter(|addr| **addr != 0);
    let v6 = row.local6.iter().filter(|addr| **addr != [0; 2]);
    v4.map(|addr| text4(*addr))
        .chain(v6.map(|addr| text6(*addr)))
        .collect()
}

/// The prefixes in a row, for people.
pub(crate) fn row_sources(row: &DecapRow) -> Vec<String> {
    let v4 = row.sources4.iter().filter(|prefix| prefix.mask != 0);
    let v6 = row.sources6.iter().filter(|prefix| prefix.mask != [0; 2]);
    v4.map(|prefix| format!("{}/{}", text4(prefix.addr), prefix.mask.count_ones()))
        .chain(v6.map(|prefix| {
            let len: u32 = prefix.mask.iter().map(|word| word.count_ones()).sum();
            format!("{}/{len}", text6(prefix.addr))
        }))
        .collect()
}

fn text4(addr: u32) -> String {
    Ipv4Addr::from(addr.to_ne_bytes()).to_string()
}

fn text6([high, low]: [u64; 2]) -> String {
    let bytes = (u128::from(u64::from_be(high)) << 64) | u128::from(u64::from_be(low));
    Ipv6Addr::from_bits(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pins_name_says_where_and_how() {
        assert_eq!(program_name("decap_12_native"), Some((12, "native")));
        assert_eq!(program_name("DECAP"), None);
        assert_eq!(program_name("decap_x_native"), None);
    }

    #[test]
    fn a_row_reads_as_it_was_written() {
        let config: DecapConfig = toml::from_str(
            r#"
            interface = "eth0"
            sources = ["172.16.0.0/16", "fd00:1::/96"]
            addresses = ["10.80.0.11", "fd80::b"]
            "#,
        )
        .unwrap();
        let row = config.row(&[]).unwrap();
        assert_eq!(row_addresses(&row), ["10.80.0.11", "fd80::b"]);
        assert_eq!(row_sources(&row), ["172.16.0.0/16", "fd00:1::/96"]);
    }
}
