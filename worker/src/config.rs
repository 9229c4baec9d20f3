//! `worker.toml`: every key, its default and its meaning.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use balancer_userspace::{decap::DecapConfig, membership::protocol::MAX_NAME};
use db::SlotSet;
use serde::{Deserialize, Deserializer};

use crate::{
    bill::BillConfig,
    cpu_latency::CpuLatencyConfig,
    deferred::DeferredLimits,
    error::ConfigError,
    park::ParkLimits,
    pool::{PoolLimits, SandboxConfig},
    rpc::RpcLimits,
    sandbox::network::NetworkConfig,
    secrets::SecretsConfig,
    stream::StreamLimits,
};

/// Configuration of the worker role.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The worker's name; its id, and with that its sessions, stay with it over restarts.
    pub name: String,
    /// The worker's id, if all control planes are to give it the same.
    #[serde(default)]
    pub id: Option<u16>,
    /// The interface that requests arrive on; the balancer sends to its MAC address.
    pub interface: String,
    /// That interface's address.
    pub address: Ipv4Addr,
    /// An IPv6 address of that interface, which balancers whose `[tunnel]` has IPv6 alone encapsulate packets to.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// The VIPs to serve, each an address on `lo`.
    #[serde(default)]
    pub vips: Vec<SocketAddr>,
    /// Address for RPCs that do not come through a balancer.
    #[serde(default)]
    pub direct_listen: Option<SocketAddr>,
    /// The control plane's membership address, or those of several; without one, only direct calls arrive.
    #[serde(default, deserialize_with = "one_or_many")]
    pub control_plane: Vec<SocketAddr>,
    /// The file with the membership secret; needed with `control_plane`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The store that functions come from.
    pub store_url: String,
    /// Where code cache, database and sandboxes keep their files.
    pub state_dir: PathBuf,
    /// Address to serve Prometheus metrics on, at `/metrics`.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Requests in flight at a time; one more is answered with `overloaded`.
    #[serde(default = "defaults::capacity")]
    pub capacity: u32,
    /// Milliseconds that requests in flight may take once the worker is told to stop.
    #[serde(default = "defaults::stop_timeout_ms")]
    pub stop_timeout_ms: u64,
    /// The shard of the database on this host.
    #[serde(default)]
    pub db: DbConfig,
    /// The pool of instances.
    #[serde(default)]
    pub pool: PoolLimits,
    /// How sandboxes are made.
    #[serde(default)]
    pub sandbox: SandboxConfig,
    /// How long waking an idle processor may take; as the machine is set up by default.
    #[serde(default)]
    pub cpu_latency: CpuLatencyConfig,
    /// What functions get that ask for a network; nothing by default.
    #[serde(default)]
    pub network: NetworkConfig,
    /// Where the secrets of functions are.
    #[serde(default)]
    pub secrets: SecretsConfig,
    /// What encapsulated packets are taken from whom; none by default.
    #[serde(default)]
    pub decap: Option<DecapConfig>,
    /// How many requests may wait without an instance.
    #[serde(default)]
    pub park: ParkLimits,
    /// Calls that nobody waits for.
    #[serde(default, rename = "async")]
    pub deferred: DeferredLimits,
    /// Who is believed about who calls.
    #[serde(default)]
    pub bill: BillConfig,
    /// What the RPC server may hold.
    #[serde(default)]
    pub rpc: RpcLimits,
    /// Replies and bodies that no message has room for.
    #[serde(default)]
    pub stream: StreamLimits,
}

/// `[db]`: the shard of the database on this host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DbConfig {
    /// The slots owned here, as ranges like `"0-5460"`; none by default.
    pub slots: SlotSet,
    /// Address to serve them to other workers on; needed with `slots`.
    pub listen: Option<SocketAddr>,
}

mod defaults {
    pub(super) const fn capacity() -> u32 {
        256
    }
    pub(super) const fn stop_timeout_ms() -> u64 {
        5_000
    }
}

impl Config {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`ConfigError`] says which file, and what in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        config.check().map_err(|problem| ConfigError::Invalid {
            path: path.to_owned(),
            problem,
        })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.check_values()?;
        match &self.decap {
            Some(decap) => decap.check().map_err(|problem| problem.to_string()),
            None => Ok(()),
        }
    }

    fn check_values(&self) -> Result<(), &'static str> {
        if self.name.is_empty() || self.name.len() > MAX_NAME {
            return Err("`name` must have 1 to 64 bytes");
        }
        if self.vips.is_empty() && self.direct_listen.is_none() {
            return Err("no address to serve: set `vips`, `direct_listen` or both");
        }
        if !self.control_plane.is_empty() && self.token_file.is_none() {
            return Err("`control_plane` needs `token_file`");
        }
        if self.capacity == 0 {
            return Err("`capacity` must be at least 1");
        }
        if !self.db.slots.is_empty() && self.db.listen.is_none() {
            return Err("`db.slots` needs `db.listen`, or other workers cannot reach them");
        }
        self.bill.check()?;
        self.park.check()?;
        self.deferred.check()?;
        self.stream.check()?;
        self.rpc.check()
    }

    /// Where streams are served: at a free port of the worker's address, unless it is said.
    pub(crate) fn stream_listen(&self) -> SocketAddr {
        let usual = SocketAddr::new(self.address.into(), 0);
        self.stream.listen.unwrap_or(usual)
    }

    pub(crate) const fn stop_timeout(&self) -> Duration {
        Duration::from_millis(self.stop_timeout_ms)
    }
}

/// An address, or a list of some.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an address with a port, or a list of them")]
    enum OneOrMany {
        One(SocketAddr),
        Many(Vec<SocketAddr>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(address) => vec![address],
        OneOrMany::Many(addresses) => addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        name = "w0"
        interface = "eth0"
        address = "10.80.0.11"
        vips = ["10.99.0.1:9000"]
        direct_listen = "10.80.0.11:9000"
        control_plane = "10.80.0.2:7000"
        token_file = "/run/token"
        store_url = "http://10.80.0.2:7100"
        state_dir = "/var/lib/warmpath"
        metrics_listen = "10.80.0.11:9100"
        capacity = 64
        [db]
        slots = ["0-5460"]
        listen = "10.80.0.11:7200"
        [pool]
        memory_mb = 1024
        [sandbox]
        rootfs = "pinned"
        [cpu_latency]
        hold = "busy"
        limit_us = 5
        [network]
        uplink = "eth0"
        first_address = "10.213.0.0"
        dns = ["10.80.0.53"]
        [secrets]
        dir = "/etc/warmpath/secrets"
        [decap]
        interface = "eth0"
        sources = ["172.16.0.0/16", "fd00:1::/96"]
        [async]
        attempts = 5
        [bill]
        gateways = ["10.80.0.3", "fd00::3"]
        [park]
        until_ms_max = 60000
        [rpc]
        acknowledge_after_ms = 15
        [stream]
        listen = "10.80.0.11:9200"
    "#;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(file.path())
    }

    #[test]
    fn the_documented_configuration_loads() {
        let config = load(WHOLE).unwrap();
        assert_eq!(config.db.slots.ranges().len(), 1);
        assert_eq!(config.pool.memory_mb, 1_024);
        assert_eq!(config.sandbox.rootfs, crate::rootfs::Choice::Pinned);
        let CpuLatencyConfig { hold, limit_us, .. } = config.cpu_latency;
        assert_eq!((hold, limit_us), (crate::cpu_latency::Hold::Busy, 5));
        assert_eq!(config.bill.gateways.len(), 2);
        assert_eq!(config.rpc.acknowledge_after_ms, 15);
        assert_eq!(config.stream_listen(), "10.80.0.11:9200".parse().unwrap());
    }

    #[test]
    fn there_may_be_several_control_planes() {
        let one = load(WHOLE).unwrap();
        assert_eq!(one.control_plane, ["10.80.0.2:7000".parse().unwrap()]);
        let list = r#"["10.80.0.2:7000", "10.80.0.4:7000"]"#;
        let several = WHOLE.replace(r#""10.80.0.2:7000""#, list);
        let several = load(&several.replace("vips", "id = 7\nvips")).unwrap();
        assert_eq!((several.control_plane.len(), several.id), (2, Some(7)));
        let wrong = WHOLE.replace(r#""10.80.0.2:7000""#, "7000");
        let error = load(&wrong).unwrap_err();
        let error = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.contains("an address with a port"), "{error}");
    }

    #[test]
    fn an_unknown_key_or_word_is_refused_wherever_it_stands() {
        for (from, to) in [
            ("capacity", "capacityy"),
            ("[rpc]", "[rpc]\nnope = 1"),
            ("[db]", "[db]\nnope = 1"),
            ("\"pinned\"", "\"penned\""),
            ("[network]", "[network]\nnope = 1"),
            ("[secrets]", "[secrets]\nnope = 1"),
            ("[stream]", "[stream]\nnope = 1"),
            ("[bill]", "[bill]\nnope = 1"),
            ("\"10.80.0.3\"", "\"gateway\""),
            ("[decap]", "[decap]\nnope = 1"),
        ] {
            let error = load(&WHOLE.replacen(from, to, 1)).unwrap_err();
            assert!(matches!(error, ConfigError::Parse { .. }), "{to}: {error}");
        }
    }

    #[test]
    fn values_that_contradict_each_other_are_refused() {
        for (line, instead) in [
            ("token_file = \"/run/token\"", ""),
            ("capacity = 64", "capacity = 0"),
            ("attempts = 5", "attempts = 0"),
            ("attempts = 5", "attempts = 500"),
            ("until_ms_max = 60000", "until_ms_max = 0"),
            ("listen = \"10.80.0.11:7200\"", ""),
            ("acknowledge_after_ms = 15", "reply_cache_bytes = 1"),
            ("172.16.0.0/16", "0.0.0.0/0"),
            ("10.80.0.3", "0.0.0.0"),
            ("10.80.0.11:9200", "0.0.0.0:9200"),
            ("10.80.0.11:9200", "[::]:9200"),
        ] {
            let (before, after) = WHOLE.rsplit_once(line).unwrap();
            let error = load(&format!("{before}{instead}{after}")).unwrap_err();
            assert!(
                matches!(error, ConfigError::Invalid { .. }),
                "{instead}: {error}"
            );
        }
    }
}
