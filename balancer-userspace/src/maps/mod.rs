//! The data plane as userspace sees it; aya is used here and nowhere else in this crate.
//!
//! Everything is pinned under one directory of a BPF file system, so that it outlives the process:
//! the maps under their names, the program as `balancer`, each link as `link_<ifindex>_<mode>`.
//! `LAYOUT` is pinned last: where it is missing, a first load did not get to its end.

mod adopt;
mod apply;
mod attach;
mod bpffs;
mod decap;
mod explain;
mod footprint;
mod load;
mod loupe;
mod open;
mod placed;
mod police;
mod privilege;
mod probe;
mod read;
mod traffic;

use std::path::Path;

pub use adopt::{DataPlane, DetachError, Detached, detach};
#[cfg(test)]
pub(crate) use apply::fake;
pub use apply::{KernelMaps, MapStore, TableRows, WriteError};
pub use attach::{AttachError, Attachment, XdpMode};
pub use bpffs::{BpffsError, has_bpffs};
pub use decap::{Decap, DecapError, decap_status};
pub(crate) use decap::{host_addresses, row_addresses, row_sources};
pub use explain::{ExplainError, PacketError, explain};
pub use footprint::{MapSize, map_size};
pub use load::LoadError;
pub use loupe::{Loupe, LoupeError, Orphans, give_back_orphans};
pub use open::OpenError;
pub use police::blocks;
pub use privilege::{PrivilegeError, check_privilege};
pub use probe::{BpfProbes, Loaded, MapShape, Probe, bpf as probe_bpf, map_shapes, try_native};
pub use read::{Counters, ReadError, counters, dump, list, memory};
pub(crate) use read::{affinity_name, protocol_name};
pub use traffic::{TrafficMaps, TrafficNames, traffic};

/// File name of the program under the pin path; the maps have their own names.
const PROGRAM_PIN: &str = "balancer";
/// Beginning of the file names of links under the pin path.
const LINK_PIN: &str = "link_";
/// Name of the program in the object.
const PROGRAM: &str = "balancer";

fn program_pin(pin_path: &Path) -> std::path::PathBuf {
    pin_path.join(PROGRAM_PIN)
}
