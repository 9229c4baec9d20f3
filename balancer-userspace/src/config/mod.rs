//! `balancer.toml`: every key, its default and its limits. Validated whole before any side effect.

mod check;
mod check_policy;
mod police;
mod policy;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

pub(crate) use check::is_name;
use ebpf_common::{
    limits::{MAX_FLOWS, MAX_FUNCTIONS, MAX_SESSIONS, PLACES_PER_ROW},
    maps::name,
};
pub use police::{FunctionRate, PoliceConfig, Prefix, RateConfig};
pub use policy::{
    Forward, Kind, PktgenConfig, PolicyFile, PoolConfig, Protocol, VipConfig, VipPort, WorkerPolicy,
};
use serde::Deserialize;
use store::{AffinityKind, Schema};
use thiserror::Error;

use crate::mac::MacAddress;

const DEFAULT_LOAD_PORT: u16 = 7001;
const DEFAULT_ROTATE_S: u32 = 86_400;
/// As Mirrokni et al. recommend for a balance between even load and moved keys (SODA '18, section 1).
const DEFAULT_BOUND_PERCENT: u32 = 25;

/// Why a configuration is not accepted.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML of this shape.
    #[error("{path} is not a balancer configuration")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause: line, column and key.
        #[source]
        source: toml::de::Error,
    },
    /// A value makes no sense.
    #[error("{path}: `{key}` {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value, and what would be right.
        problem: String,
    },
}

/// The control plane's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Directory on a BPF file system for program, maps and links; the file system is mounted there if need be.
    pub pin_path: PathBuf,
    /// Unix socket of the admin API; what must survive a restart is kept in files beside it.
    pub admin_socket: PathBuf,
    /// Where Prometheus finds `/metrics`; nowhere by default.
    pub metrics_listen: Option<SocketAddr>,
    /// Where functions come from; without it only those of `[[function]]` exist.
    pub store_url: Option<String>,
    /// Heartbeats; without it only the workers of `[[worker]]` exist.
    pub membership: Option<MembershipConfig>,
    /// Where the program is attached; at least one.
    #[serde(rename = "interface")]
    pub interfaces: Vec<InterfaceConfig>,
    /// The addresses to answer for.
    #[serde(rename = "vip", default)]
    pub vips: Vec<VipConfig>,
    /// Sets of workers that VIPs may be kept to.
    #[serde(rename = "pool", default)]
    pub pools: Vec<PoolConfig>,
    /// Who may send how much.
    #[serde(default)]
    pub police: PoliceConfig,
    /// Where workers say how busy they are.
    #[serde(default)]
    pub load: LoadConfig,
    /// Sources of encapsulated packets.
    #[serde(default)]
    pub tunnel: TunnelConfig,
    /// How often keys are made anew.
    #[serde(default)]
    pub keys: KeysConfig,
    /// The bound on a function's home.
    #[serde(default)]
    pub home: HomeConfig,
    /// Whether the next hop to each worker is asked of the kernel's FIB, and not taken from the worker's MAC address.
    #[serde(default)]
    pub fib: bool,
    /// Workers that send no heartbeats.
    #[serde(rename = "worker", default)]
    pub workers: Vec<StaticWorker>,
    /// Functions that are in no store.
    #[serde(rename = "function", default)]
    pub functions: Vec<StaticFunction>,
    /// Sizes of the maps, when the program is first loaded.
    #[serde(default)]
    pub limits: Limits,
}

/// `[membership]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembershipConfig {
    /// Where workers connect.
    pub listen: SocketAddr,
    /// File with the secret that workers show.
    pub token_file: PathBuf,
    /// How often workers are asked to send a heartbeat.
    #[serde(default = "default_heartbeat_ms")]
    pub heartbeat_ms: u32,
    /// Silence after which a worker counts as down.
    #[serde(default = "default_lease_ms")]
    pub lease_ms: u32,
    /// How long after a restart workers known from before count as alive without having connected again.
    #[serde(default = "default_restart_grace_ms")]
    pub restart_grace_ms: u32,
}

/// `[[interface]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceConfig {
    /// Its name.
    pub name: String,
    /// How the program is attached.
    #[serde(default)]
    pub mode: AttachMode,
    /// Bytes of the largest IP packet on the way to workers; the interface's MTU if not given. At least what every VIP's
    /// shortest packets need, outer headers included.
    pub mtu: Option<u16>,
}

/// How the program is attached to an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// In the driver, or not at all.
    #[default]
    Native,
    /// In the kernel's generic path, which is slow.
    Generic,
    /// In the driver if it can, otherwise in the generic path, with a warning.
    Auto,
}

/// `[load]`: where workers say how busy they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadConfig {
    /// An address of the balancer itself; the first IPv4 address of the first interface if not given.
    pub address: Option<IpAddr>,
    /// A UDP port that nothing else uses.
    pub port: u16,
}

impl Default for LoadConfig {
    fn default() -> Self {
        Self {
            address: None,
            port: DEFAULT_LOAD_PORT,
        }
    }
}

/// `[tunnel]`: sources of encapsulated packets, of which the last bits are varied by flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelConfig {
    /// IPv4, of which the last two bytes must be zero.
    pub v4: Option<Ipv4Addr>,
    /// IPv6, of which the last four bytes must be zero.
    pub v6: Option<Ipv6Addr>,
}

/// `[keys]`: of route cookies, address tokens and LOAD packets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// Seconds after which new keys are made; those before them stay valid as long again. 0 for never.
    pub rotate_s: u32,
    /// The file with the secret that keys are made of, the same at every balancer of the same addresses. Without one
    /// they are random, and this balancer's own.
    pub secret_file: Option<PathBuf>,
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self {
            rotate_s: DEFAULT_ROTATE_S,
            secret_file: None,
        }
    }
}

/// `[home]`: the bound on a function's home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HomeConfig {
    /// Percent above the mean load of all workers, by weight, beyond which a worker is passed over; 0 for no bound but
    /// its capacity.
    pub bound_percent: u32,
}

impl Default for HomeConfig {
    fn default() -> Self {
        Self {
            bound_percent: DEFAULT_BOUND_PERCENT,
        }
    }
}

/// `[[worker]]`: one that sends no heartbeats and counts as up.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticWorker {
    /// Its name.
    pub name: String,
    /// Address of its interface.
    pub address: Ipv4Addr,
    /// MAC address of its interface.
    pub mac: MacAddress,
    /// Our interface to reach it by; otherwise the one whose subnet holds its address.
    pub interface: Option<String>,
    /// IPv6 address that encapsulated packets go to.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// Its share of work: 256 is that of any other worker.
    #[serde(default = "policy::normal_weight")]
    pub weight: u16,
    /// Requests it may have in flight, whatever it reports.
    #[serde(default)]
    pub cap: Option<u32>,
}

/// `[[function]]`: one that is in no store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticFunction {
    /// `hello` (which means `hello@latest`) or `hello@3`.
    pub name: String,
    /// What its manifest would say.
    #[serde(default)]
    pub affinity: AffinityKind,
    /// Likewise, `[schema]`.
    pub schema: Option<Schema>,
}

/// `[limits]`: entries of maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Entries of the `FUNCTIONS` map.
    pub functions: u32,
    /// Places of the `SESSIONS` table; rounded up to a power of two.
    pub sessions: u32,
    /// Places of the `FLOWS` table; rounded up to a power of two.
    pub flows: u32,
}

impl Limits {
    /// Rows of each map whose size these limits set.
    #[must_use]
    pub fn map_sizes(&self) -> [(&'static str, u32); 3] {
        [
            (name::FUNCTIONS, self.function_rows()),
            (name::SESSIONS, self.session_rows()),
            (name::FLOWS, self.flow_rows()),
        ]
    }

    /// Rows of the `SESSIONS` map.
    #[must_use]
    pub const fn session_rows(&self) -> u32 {
        place_rows(self.sessions)
    }

    /// Rows of the `FLOWS` map.
    #[must_use]
    pub const fn flow_rows(&self) -> u32 {
        place_rows(self.flows)
    }

    /// Rows of the `FUNCTIONS` map: see [`ebpf_common::cuckoo`].
    #[must_use]
    pub const fn function_rows(&self) -> u32 {
        (2 * self.functions).next_power_of_two()
    }
}

const fn place_rows(places: u32) -> u32 {
    places.div_ceil(PLACES_PER_ROW).next_power_of_two()
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            functions: MAX_FUNCTIONS,
            sessions: MAX_SESSIONS,
            flows: MAX_FLOWS,
        }
    }
}

const fn default_heartbeat_ms() -> u32 {
    20
}

const fn default_lease_ms() -> u32 {
    200
}

const fn default_restart_grace_ms() -> u32 {
    1_000
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the key and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads and validates `text`; `path` is only for messages.
    ///
    /// # Errors
    /// Those of [`Self::load`], except `Read`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source,
        })?;
        config
            .check()
            .map_err(|(key, problem)| ConfigError::Value {
                path: path.to_owned(),
                key,
                problem,
            })?;
        Ok(config)
    }

    /// What it begins with, until another policy is applied.
    #[must_use]
    pub fn policy(&self) -> PolicyFile {
        let is_special = |worker: &&StaticWorker| {
            worker.weight != policy::normal_weight() || worker.cap.is_some()
        };
        let workers = self.workers.iter().filter(is_special);
        PolicyFile {
            vips: self.vips.clone(),
            pools: self.pools.clone(),
            workers: workers
                .map(|worker| WorkerPolicy {
                    name: worker.name.clone(),
                    weight: worker.weight,
                    cap: worker.cap,
                })
                .collect(),
            police: self.police.clone(),
        }
    }

    /// Where workers are to send LOAD packets, if they do, by a balancer whose `own` first address is this.
    #[must_use]
    pub fn load_address(&self, own: Option<Ipv4Addr>) -> Option<SocketAddr> {
        self.membership.as_ref()?;
        let address = self.load.address.or_else(|| own.map(IpAddr::V4))?;
        Some(SocketAddr::new(address, self.load.port))
    }

    /// Where applied policies are kept.
    #[must_use]
    pub fn policy_dir(&self) -> PathBuf {
        self.admin_socket.with_extension("policies")
    }

    /// Where worker ids and slot claims survive a restart.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.admin_socket.with_extension("state.json")
    }

    /// Locked while a control plane runs.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.admin_socket.with_extension("lock")
    }
}

#[cfg(test)]
mod tests;
