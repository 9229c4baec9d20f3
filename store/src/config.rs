//! `store.toml`: the configuration of the store role.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::unpack::Limits;

/// Configuration of the store role.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the HTTP API listens: `ip:port`.
    pub listen: SocketAddr,
    /// The folder of bundles and records; made when absent.
    pub path: PathBuf,
    /// Where `/metrics` is served besides the API's own address; default: nowhere.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// How often records are read again, for changes that another process made. Default 5000.
    #[serde(default = "default_rescan_ms")]
    pub rescan_ms: u64,
    /// How large bundles may be.
    #[serde(default)]
    pub limits: LimitsConfig,
}

/// `[limits]`: how large bundles may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes as they are sent: compressed. Default 64 MiB.
    pub bundle_bytes: u64,
    /// Bytes of all files of a bundle together, unpacked. Default 256 MiB.
    pub unpacked_bytes: u64,
    /// Files and folders in a bundle. Default 10,000.
    pub files: u64,
    /// Bytes of a package layer as it is sent: compressed. Default 256 MiB.
    pub layer_bytes: u64,
    /// Bytes of all files of a layer together, unpacked. Default 1 GiB.
    pub layer_unpacked_bytes: u64,
    /// Files and folders in a layer. Default 50,000.
    pub layer_files: u64,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the store configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not TOML, or a key that is unknown, missing or of the wrong kind.
    #[error("cannot use the store configuration {}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A value outside its range.
    #[error("cannot use the store configuration {}: `{key}` must be {min} to {max}, not {given}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        given: u64,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
}

const fn default_rescan_ms() -> u64 {
    5_000
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            bundle_bytes: limits.bundle_bytes,
            unpacked_bytes: limits.unpacked_bytes,
            files: limits.files,
            layer_bytes: Limits::LAYER.bundle_bytes,
            layer_unpacked_bytes: Limits::LAYER.unpacked_bytes,
            layer_files: Limits::LAYER.files,
        }
    }
}

impl LimitsConfig {
    /// How large a package layer may be.
    #[must_use]
    pub const fn for_layers(&self) -> Limits {
        Limits {
            bundle_bytes: self.layer_bytes,
            unpacked_bytes: self.layer_unpacked_bytes,
            files: self.layer_files,
        }
    }
}

impl From<LimitsConfig> for Limits {
    fn from(config: LimitsConfig) -> Self {
        Self {
            bundle_bytes: config.bundle_bytes,
            unpacked_bytes: config.unpacked_bytes,
            files: config.files,
        }
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], naming file and key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        let limits = &config.limits;
        for (key, given, min, max) in [
            ("rescan_ms", config.rescan_ms, 100, 3_600_000),
            ("limits.bundle_bytes", limits.bundle_bytes, 1_024, 1 << 30),
            (
                "limits.unpacked_bytes",
                limits.unpacked_bytes,
                1_024,
                1 << 34,
            ),
            ("limits.files", limits.files, 2, 1_000_000),
            ("limits.layer_bytes", limits.layer_bytes, 1_024, 1 << 30),
            (
                "limits.layer_unpacked_bytes",
                limits.layer_unpacked_bytes,
                1_024,
                1 << 34,
            ),
            ("limits.layer_files", limits.layer_files, 2, 1_000_000),
        ] {
            if !(min..=max).contains(&given) {
                return Err(ConfigError::Value {
                    path: path.to_owned(),
                    key,
                    given,
                    min,
                    max,
                });
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    const BASE: &str = "listen = \"127.0.0.1:7100\"\npath = \"/tmp/x\"\n";

    #[test]
    fn listen_and_path_are_enough() {
        let config = load(BASE).unwrap();
        assert_eq!(Limits::from(config.limits), Limits::default());
        assert_eq!((config.rescan_ms, config.metrics_listen), (5_000, None));
    }

    #[test]
    fn one_limit_can_be_set_alone() {
        let config = load(&format!("{BASE}[limits]\nfiles = 20")).unwrap();
        assert_eq!(config.limits.files, 20);
        assert_eq!(config.limits.bundle_bytes, Limits::default().bundle_bytes);
    }

    #[test]
    fn a_key_that_is_wrong_is_named() {
        for (lines, named) in [
            ("listn = 1", "listn"),
            ("rescan_ms = 1", "rescan_ms"),
            ("[limits]\nfiles = 0", "limits.files"),
            ("[limits]\nbundle_mb = 1", "bundle_mb"),
        ] {
            let error = load(&format!("{BASE}{lines}")).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
