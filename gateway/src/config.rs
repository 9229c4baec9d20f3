//! `gateway.toml`: every key, its default and its meaning.

use std::{net::SocketAddr, path::Path};

use serde::Deserialize;

use crate::{caller::Prefix, error::ConfigError};

/// Configuration of the gateway role.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address to serve HTTP on.
    pub listen: SocketAddr,
    /// The VIP that functions are called at.
    pub vip: SocketAddr,
    /// Address to serve Prometheus metrics on, at `/metrics`.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Proxies in front of the gateway: from these, X-Forwarded-For says who calls. None by default.
    #[serde(default)]
    pub trusted_proxies: Vec<Prefix>,
    /// UDP sockets to call the VIP from; requests of one session use the same one.
    #[serde(default = "defaults::sockets")]
    pub sockets: usize,
    /// Milliseconds a call may take when the caller sends no `X-Warmpath-Budget-Ms`.
    #[serde(default = "defaults::budget_ms")]
    pub budget_ms: u32,
    /// Most milliseconds a caller may ask for.
    #[serde(default = "defaults::max_budget_ms")]
    pub max_budget_ms: u32,
    /// Bytes of the longest body whose length is told; workers have a limit of their own for all others.
    #[serde(default = "defaults::max_body_bytes")]
    pub max_body_bytes: u64,
    /// HTTP connections served at once; further ones wait to be accepted.
    #[serde(default = "defaults::max_connections")]
    pub max_connections: usize,
    /// Milliseconds a client may take to send the head of a request, and again for its body.
    #[serde(default = "defaults::read_timeout_ms")]
    pub read_timeout_ms: u64,
    /// Milliseconds that requests in flight may take once the gateway is told to stop.
    #[serde(default = "defaults::stop_timeout_ms")]
    pub stop_timeout_ms: u64,
}

mod defaults {
    pub(super) const fn sockets() -> usize {
        2
    }
    pub(super) const fn budget_ms() -> u32 {
        30_000
    }
    pub(super) const fn max_budget_ms() -> u32 {
        300_000
    }
    pub(super) const fn max_body_bytes() -> u64 {
        1 << 30
    }
    pub(super) const fn max_connections() -> usize {
        4_096
    }
    pub(super) const fn read_timeout_ms() -> u64 {
        10_000
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

    fn check(&self) -> Result<(), &'static str> {
        let counts = [self.sockets, self.max_connections];
        if counts.contains(&0) {
            return Err("`sockets` and `max_connections` must be at least 1");
        }
        if self.budget_ms == 0 || self.budget_ms > self.max_budget_ms {
            return Err("`budget_ms` must lie between 1 and `max_budget_ms`");
        }
        if self.read_timeout_ms == 0 {
            return Err("`read_timeout_ms` must be at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Config::load(file.path())
    }

    #[test]
    fn the_least_configuration_is_two_lines() {
        let config = load("listen = '127.0.0.1:8080'\nvip = '10.99.0.1:9000'").unwrap();
        assert_eq!(config.vip, "10.99.0.1:9000".parse().unwrap());
        assert_eq!(config.metrics_listen, None);
    }

    #[test]
    fn proxies_are_addresses_or_prefixes() {
        let with = |proxies: &str| {
            load(&format!(
                "listen = '127.0.0.1:8080'\nvip = '10.99.0.1:9000'\ntrusted_proxies = {proxies}"
            ))
        };
        let config = with("['10.0.0.0/8', '192.0.2.1', 'fd00::/8']").unwrap();
        assert_eq!(config.trusted_proxies.len(), 3);
        let error = with("['everybody']").unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("everybody"), "{source}");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error =
            load("listen = '127.0.0.1:8080'\nvip = '10.99.0.1:9000'\nvipp = 1").unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("vipp"), "{source}");
    }

    #[test]
    fn a_value_out_of_range_is_refused() {
        let error =
            load("listen = '127.0.0.1:8080'\nvip = '10.99.0.1:9000'\nsockets = 0").unwrap_err();
        assert!(matches!(error, ConfigError::Invalid { .. }));
    }
}
