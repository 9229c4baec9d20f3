//! The bill of one request.

use std::fmt;

use db::{Locality, OpKind};
use serde::{Deserialize, Serialize};

use super::Charge;
use crate::pool::Path;

/// What one invocation used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// From entering the pool to leaving it, waiting included.
    pub wall_us: u64,
    /// The part of it that went by before the handler began.
    pub queue_us: u64,
    /// The part of that in which an instance was being started for it.
    pub cold_us: u64,
    /// CPU time of everything in the sandbox, the parts below included.
    pub cpu_ns: u64,
    /// The part that starting the instance took: its first request pays it.
    pub start_cpu_ns: u64,
    /// The part used since the instance's last reply: its loop, threads and children that go on.
    pub idle_cpu_ns: u64,
    /// The memory limit times the time in which the handler ran, shared with those it ran beside.
    pub memory_mb_ms: u64,
    /// Most memory that the instance has had while it ran; 0 where the kernel does not say.
    pub memory_peak_kb: u64,
    /// Of the event.
    pub bytes_in: u64,
    /// Of the reply.
    pub bytes_out: u64,
    /// Database operations.
    pub db: DbOps,
    /// Whether an instance was started for it.
    pub cold: bool,
    /// The instance that served it; 0 if none did.
    pub instance: u64,
    /// Where that came from; none if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
}

impl Usage {
    /// Adds what the meter charged, of an instance whose memory limit is `memory_mb`.
    pub fn add(&mut self, charge: Charge, memory_mb: u32) {
        self.cpu_ns += charge.cpu_ns;
        self.start_cpu_ns += charge.start_cpu_ns;
        self.idle_cpu_ns += charge.idle_cpu_ns;
        self.memory_mb_ms += u64::from(memory_mb) * charge.share_us / 1_000;
    }
}

/// `name=value` pairs with commas between them, as the header `X-Warmpath-Bill` has them.
impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cpu_ns={}, start_cpu_ns={}, idle_cpu_ns={}, wall_us={}, queue_us={}, cold_us={}, memory_mb_ms={}, \
             memory_peak_kb={}, bytes_in={}, bytes_out={}, db_ops={}",
            self.cpu_ns,
            self.start_cpu_ns,
            self.idle_cpu_ns,
            self.wall_us,
            self.queue_us,
            self.cold_us,
            self.memory_mb_ms,
            self.memory_peak_kb,
            self.bytes_in,
            self.bytes_out,
            self.db.total(),
        )
    }
}

/// Database operations by kind and by where the slot's owner was; failed ones included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DbOps {
    /// Gets on this host.
    pub get_local: u32,
    /// Gets on another host.
    pub get_remote: u32,
    /// Scans on this host.
    pub scan_local: u32,
    /// Scans on another host.
    pub scan_remote: u32,
    /// Writes on this host: put, delete, compare-and-set.
    pub write_local: u32,
    /// Writes on another host.
    pub write_remote: u32,
    /// Operations refused or failed before an owner did anything.
    pub failed: u32,
}

impl DbOps {
    /// Counts one operation that was done at `locality`; `None`: nowhere.
    pub const fn count(&mut self, kind: Option<OpKind>, locality: Option<Locality>) {
        let (Some(kind), Some(locality)) = (kind, locality) else {
            self.failed += 1;
            return;
        };
        let place = match (kind, locality) {
            (OpKind::Get, Locality::Local) => &mut self.get_local,
            (OpKind::Get, Locality::Remote) => &mut self.get_remote,
            (OpKind::Scan | OpKind::Feed | OpKind::Head, Locality::Local) => &mut self.scan_local,
            (OpKind::Scan | OpKind::Feed | OpKind::Head, Locality::Remote) => &mut self.scan_remote,
            (OpKind::Put | OpKind::Delete | OpKind::CompareAndSet, Locality::Local) => {
                &mut self.write_local
            }
            (OpKind::Put | OpKind::Delete | OpKind::CompareAndSet, Locality::Remote) => {
                &mut self.write_remote
            }
        };
        *place += 1;
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.get_local as u64
            + self.get_remote as u64
            + self.scan_local as u64
            + self.scan_remote as u64
            + self.write_local as u64
            + self.write_remote as u64
            + self.failed as u64
    }
}
