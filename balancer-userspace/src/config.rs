//! `balancer.toml`: every key, its default and its limits. Validated whole before any side effect.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use ebpf_common::limits::{MAX_FUNCTIONS, MAX_SESSIONS, MAX_VIPS, MAX_WORKERS};
use serde::Deserialize;
use thiserror::Error;

use crate::{mac::MacAddress, membership::protocol::MAX_NAME};

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

/// `[[vip]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipConfig {
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its UDP port.
    pub port: u16,
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
}

/// `[[function]]`: one that is in no store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticFunction {
    /// `hello` (which means `hello@latest`) or `hello@3`.
    pub name: String,
    /// What its manifest would say.
    #[serde(default)]
    pub affinity: AffinityConfig,
}

/// Affinity of a [`StaticFunction`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AffinityConfig {
    /// Any warm worker.
    #[default]
    None,
    /// The worker of the session.
    Session,
    /// The owner of the slot.
    Shard,
}

/// `[limits]`: entries of maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Entries of the `FUNCTIONS` map.
    pub functions: u32,
    /// Entries of the `SESSIONS` map, an LRU.
    pub sessions: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            functions: MAX_FUNCTIONS,
            sessions: MAX_SESSIONS,
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

/// The kernel's limit (IFNAMSIZ), without its final NUL.
const MAX_INTERFACE_NAME: usize = 15;
/// A session table larger than this does not fit the memory of a host.
const MAX_SESSIONS_EVER: u32 = 1 << 28;

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

    fn check(&self) -> Result<(), (String, String)> {
        let value = |key: &str, problem: &str| Err((key.to_owned(), problem.to_owned()));
        if !self.pin_path.is_absolute() {
            return value("pin_path", "must be an absolute path");
        }
        // bpffs reserves names with a dot for itself.
        if self
            .pin_path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().contains('.'))
        {
            return value("pin_path", "must end in a name without a dot");
        }
        if !self.admin_socket.is_absolute() {
            return value("admin_socket", "must be an absolute path");
        }
        if self.interfaces.is_empty() {
            return value("interface", "is missing: at least one interface is needed");
        }
        self.check_interfaces()?;
        self.check_vips()?;
        self.check_workers()?;
        self.check_functions()?;
        if let Some(membership) = &self.membership {
            membership.check()?;
        }
        if !(1..=MAX_FUNCTIONS).contains(&self.limits.functions) {
            return value("limits.functions", &format!("must be 1 to {MAX_FUNCTIONS}"));
        }
        if !(1..=MAX_SESSIONS_EVER).contains(&self.limits.sessions) {
            return value(
                "limits.sessions",
                &format!("must be 1 to {MAX_SESSIONS_EVER}"),
            );
        }
        Ok(())
    }

    fn check_interfaces(&self) -> Result<(), (String, String)> {
        let mut names = BTreeSet::new();
        for interface in &self.interfaces {
            let name = interface.name.as_str();
            let problem = if name.is_empty() || name.len() > MAX_INTERFACE_NAME {
                "must be the name of an interface"
            } else if !names.insert(name) {
                "is there twice"
            } else {
                continue;
            };
            return Err((format!("interface \"{name}\""), problem.to_owned()));
        }
        Ok(())
    }

    fn check_vips(&self) -> Result<(), (String, String)> {
        let mut seen = BTreeSet::new();
        for vip in &self.vips {
            let key = format!("vip {}:{}", vip.address, vip.port);
            let is_host = !vip.address.is_multicast()
                && !vip.address.is_unspecified()
                && !vip.address.is_broadcast();
            let problem = if vip.port == 0 || !is_host {
                "must be the address of a host and a port"
            } else if !seen.insert((vip.address, vip.port)) {
                "is there twice"
            } else {
                continue;
            };
            return Err((key, problem.to_owned()));
        }
        // A VIP takes one row for its port, and its address one more.
        let rows = seen.len() + seen.iter().map(|vip| vip.0).collect::<BTreeSet<_>>().len();
        if rows > MAX_VIPS as usize {
            return Err(("vip".to_owned(), format!("needs {rows} rows of {MAX_VIPS}")));
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), (String, String)> {
        let mut names = BTreeSet::new();
        for worker in &self.workers {
            let unknown_interface = worker
                .interface
                .as_ref()
                .is_some_and(|name| !self.interfaces.iter().any(|known| known.name == *name));
            let problem = if !is_name(&worker.name) {
                "must have a name of letters, digits, `-`, `_` or `.`"
            } else if !names.insert(&worker.name) {
                "is there twice"
            } else if unknown_interface {
                "names an interface that is in no [[interface]]"
            } else {
                continue;
            };
            return Err((format!("worker \"{}\"", worker.name), problem.to_owned()));
        }
        if names.len() > MAX_WORKERS as usize {
            return Err(("worker".to_owned(), format!("at most {MAX_WORKERS}")));
        }
        Ok(())
    }

    fn check_functions(&self) -> Result<(), (String, String)> {
        match self
            .functions
            .iter()
            .find(|function| function.name.is_empty())
        {
            Some(_) => Err(("function".to_owned(), "must have a name".to_owned())),
            None => Ok(()),
        }
    }
}

impl MembershipConfig {
    fn check(&self) -> Result<(), (String, String)> {
        if !(1..=60_000).contains(&self.heartbeat_ms) {
            return Err((
                "membership.heartbeat_ms".to_owned(),
                "must be 1 to 60000".to_owned(),
            ));
        }
        if self.lease_ms < self.heartbeat_ms.saturating_mul(2) || self.lease_ms > 600_000 {
            return Err((
                "membership.lease_ms".to_owned(),
                "must be at least twice heartbeat_ms, or one late heartbeat takes a worker out"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

/// Whether `name` can name a worker: it appears in paths, metrics and logs.
#[must_use]
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        pin_path = "/sys/fs/bpf/warmpath"
        admin_socket = "/run/warmpath/balancer.sock"
        metrics_listen = "10.80.0.2:9100"
        store_url = "http://10.80.0.2:7100"

        [membership]
        listen = "10.80.0.2:7000"
        token_file = "/etc/warmpath/token"

        [[interface]]
        name = "eth0"

        [[interface]]
        name = "eth1"
        mode = "auto"

        [[vip]]
        address = "10.99.0.1"
        port = 9000

        [[worker]]
        name = "w9"
        address = "10.80.0.19"
        mac = "02:77:70:00:00:19"
        interface = "eth1"

        [[function]]
        name = "hello"
        affinity = "session"

        [limits]
        sessions = 1000
    "#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("balancer.toml"))
    }

    #[test]
    fn defaults_fill_what_is_not_given() {
        let config = parse(FULL).unwrap();
        let membership = config.membership.unwrap();
        assert_eq!((membership.heartbeat_ms, membership.lease_ms), (20, 200));
        assert_eq!(config.interfaces[0].mode, AttachMode::Native);
        assert_eq!(config.limits.functions, MAX_FUNCTIONS);
        assert_eq!(config.limits.sessions, 1000);
    }

    #[test]
    fn every_senseless_value_is_refused_by_its_key() {
        let cases = [
            (
                "pin_path = \"/sys/fs/bpf/warmpath\"",
                "pin_path = \"bpf\"",
                "pin_path",
            ),
            ("bpf/warmpath\"", "bpf/warm.path\"", "pin_path"),
            (
                "\"eth1\"\n        mode",
                "\"eth0\"\n        mode",
                "interface \"eth0\"",
            ),
            (
                "\"eth0\"",
                "\"0123456789abcdef\"",
                "interface \"0123456789abcdef\"",
            ),
            ("port = 9000", "port = 0", "vip 10.99.0.1:0"),
            ("\"10.99.0.1\"", "\"224.0.0.1\"", "vip 224.0.0.1:9000"),
            (
                "interface = \"eth1\"",
                "interface = \"eth2\"",
                "worker \"w9\"",
            ),
            ("\"w9\"", "\"a/b\"", "worker \"a/b\""),
            ("sessions = 1000", "sessions = 0", "limits.sessions"),
            (
                "token\"",
                "token\"\n        lease_ms = 30",
                "membership.lease_ms",
            ),
        ];
        for (from, to, key) in cases {
            assert!(FULL.contains(from), "{from}");
            match parse(&FULL.replace(from, to)) {
                Err(ConfigError::Value { key: found, .. }) => assert_eq!(found, key),
                other => panic!("{key}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = parse(&FULL.replace("store_url", "store_uri")).unwrap_err();
        assert!(matches!(error, ConfigError::Parse { .. }));
    }
}
