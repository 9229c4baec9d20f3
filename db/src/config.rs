//! `db.toml`: the configuration of a stand-alone db role.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    engine::embedded::Options,
    slots::{SlotRange, SlotSet},
};

/// Largest `reserve_mb`.
const RESERVE_MB_MAX: u64 = 1 << 20;

/// Configuration of the db role.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the HTTP API listens: `ip:port`.
    pub listen: SocketAddr,
    /// The folder of the engine's files; made when absent.
    pub path: PathBuf,
    /// The slots owned here. Default: all.
    #[serde(default = "all_slots")]
    pub slots: SlotSet,
    /// Where `/metrics` is served; default: nowhere.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Writes are refused while the file system has less than this free. Default 64.
    #[serde(default = "default_reserve_mb")]
    pub reserve_mb: u64,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the db configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not TOML, or a key that is unknown, missing or of the wrong kind.
    #[error("cannot use the db configuration {}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A value outside its range.
    #[error("cannot use the db configuration {}: `{key}` must be {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it allows.
        expected: &'static str,
    },
}

fn all_slots() -> SlotSet {
    SlotSet::new(vec![SlotRange::ALL]).expect("one valid range cannot overlap another")
}

const fn default_reserve_mb() -> u64 {
    64
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
        let refuse = |key, expected| ConfigError::Value {
            path: path.to_owned(),
            key,
            expected,
        };
        if config.slots.is_empty() {
            return Err(refuse("slots", "at least one range, such as \"0-16383\""));
        }
        if config.reserve_mb > RESERVE_MB_MAX {
            return Err(refuse("reserve_mb", "0 to 1048576"));
        }
        Ok(config)
    }

    /// How the engine is opened.
    #[must_use]
    pub const fn engine_options(&self) -> Options {
        Options {
            reserve_bytes: self.reserve_mb << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    #[test]
    fn listen_and_path_are_enough() {
        let config = load("listen = \"127.0.0.1:7200\"\npath = \"/tmp/x\"").unwrap();
        assert_eq!(config.slots.to_string(), "0-16383");
        assert_eq!(config.engine_options(), Options::default());
        assert_eq!(config.metrics_listen, None);
    }

    #[test]
    fn a_key_that_is_wrong_is_named() {
        let base = "listen = \"127.0.0.1:7200\"\npath = \"/tmp/x\"\n";
        for (line, named) in [
            ("slotz = []", "slotz"),
            ("slots = []", "slots"),
            ("slots = [\"0-5\", \"3-9\"]", "overlap"),
            ("reserve_mb = 99999999", "reserve_mb"),
        ] {
            let error = load(&format!("{base}{line}")).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
