//! `warmpath.toml`: what a bundle says of its function. Read once, at publishing; from then on the
//! parsed form travels in the catalog.
//!
//! Unknown keys are refused, and each number has a range, so that a typo never becomes a default.

mod error;
mod handler;
mod name;
mod retries;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::{Deserialize, Serialize};

pub use self::{
    error::ManifestError,
    handler::{Interface, METHODS, PayloadKind, Runtime},
    name::{NAME_LEN_MAX, check_name},
    retries::Retries,
};
use crate::{
    digest::Digest,
    egress::{EGRESS_MAX, Egress, EgressError},
    environment,
    schema::Schema,
    trigger::Triggers,
};

/// Where the manifest lies in a bundle.
pub const MANIFEST_PATH: &str = "warmpath.toml";
/// Longest manifest read.
pub const MANIFEST_BYTES_MAX: u64 = 64 * 1024;
/// Most package layers of one function.
pub const LAYERS_MAX: usize = 64;

/// The parsed manifest of one version of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The function's name: `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: String,
    /// What runs the code.
    #[serde(default)]
    pub runtime: Runtime,
    /// The file that holds the handler, relative to the bundle's root.
    #[serde(default = "default_entry")]
    pub entry: String,
    /// How the handler is called.
    #[serde(default)]
    pub interface: Interface,
    /// The application's name in the entry, for the interfaces that have one.
    #[serde(default = "default_app")]
    pub app: String,
    /// HTTP methods that the function takes; absent, what its interface says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Which requests should meet the same worker.
    #[serde(default)]
    pub affinity: AffinityKind,
    /// How long one request may run.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u32,
    /// Memory of one instance.
    #[serde(default = "default_memory_mb")]
    pub memory_mb: u32,
    /// Processes and threads of one instance.
    #[serde(default = "default_pids")]
    pub pids: u32,
    /// CPU of one instance, in per cent of one core.
    #[serde(default = "default_cpu_percent")]
    pub cpu_percent: u32,
    /// Size of the private `/tmp` of one instance.
    #[serde(default = "default_tmp_mb")]
    pub tmp_mb: u32,
    /// Requests that one instance serves at a time.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Instances that are kept whether or not anyone calls, over all workers.
    #[serde(default)]
    pub min_warm: u32,
    /// Most instances on one worker; absent: as many as the worker allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_instances: Option<u32>,
    /// How the handler takes its event and gives its reply.
    #[serde(default)]
    pub payload: PayloadKind,
    /// The package layers it runs with, in the order in which they are searched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Digest>,
    /// Whose function it is. Tenants see nothing of each other: secrets are looked up under this name.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// Environment variables, as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Environment variables whose values are secrets of the tenant, by the secrets' names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Where it may connect to; nowhere by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<Egress>,
    /// Where the payload holds the session or shard key of requests that do not name it in their header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
    /// How its calls that nobody waits for are tried.
    #[serde(rename = "async", default, skip_serializing_if = "Retries::is_none")]
    pub retries: Retries,
    /// What calls it by itself.
    #[serde(default, skip_serializing_if = "Triggers::is_none")]
    pub triggers: Triggers,
}

/// Which requests should meet the same worker (DESIGN §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AffinityKind {
    /// Any warm worker will do.
    #[default]
    None,
    /// Requests of one session.
    Session,
    /// Requests of one slot go to the worker that owns it, and nowhere else.
    Shard,
}

fn default_entry() -> String {
    "f.py".to_owned()
}

fn default_app() -> String {
    "app".to_owned()
}

const fn default_timeout_ms() -> u32 {
    3_000
}

const fn default_memory_mb() -> u32 {
    128
}

const fn default_pids() -> u32 {
    32
}

const fn default_cpu_percent() -> u32 {
    100
}

const fn default_tmp_mb() -> u32 {
    16
}

const fn default_concurrency() -> u32 {
    1
}

fn default_tenant() -> String {
    "default".to_owned()
}

impl Manifest {
    /// Reads and checks the bytes of a `warmpath.toml`.
    ///
    /// # Errors
    /// [`ManifestError`], naming the key and what it allows.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text = str::from_utf8(bytes).or(Err(ManifestError::Encoding))?;
        let manifest: Self = toml::from_str(text).map_err(|error| ManifestError::Syntax {
            reason: error.to_string().trim_end().to_owned(),
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`ManifestError`] for the first value that breaks its rule.
    pub fn check(&self) -> Result<(), ManifestError> {
        check_name(&self.name)?;
        let entry = Path::new(&self.entry);
        let is_plain = !self.entry.is_empty()
            && !self.entry.contains('\0')
            && entry
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
        if !is_plain {
            return Err(ManifestError::Entry {
                given: self.entry.clone(),
            });
        }
        for (key, given, min, max) in [
            ("timeout_ms", self.timeout_ms, 1, 900_000),
            ("memory_mb", self.memory_mb, 16, 10_240),
            ("pids", self.pids, 1, 4_096),
            ("cpu_percent", self.cpu_percent, 1, 6_400),
            ("tmp_mb", self.tmp_mb, 1, 4_096),
            ("concurrency", self.concurrency, 1, 256),
            ("min_warm", self.min_warm, 0, 1_024),
            ("max_instances", self.max_instances.unwrap_or(1), 1, 4_096),
        ] {
            if !(min..=max).contains(&given) {
                return Err(ManifestError::OutOfRange {
                    key,
                    given,
                    min,
                    max,
                });
            }
        }
        check_layers(&self.layers)?;
        environment::check_tenant(&self.tenant)?;
        environment::check(&self.env, &self.secrets)?;
        if self.network.len() > EGRESS_MAX {
            return Err(EgressError::TooMany {
                given: self.network.len(),
            }
            .into());
        }
        if let Some(schema) = &self.schema {
            schema.compile(self.affinity)?;
        }
        self.retries.check()?;
        self.triggers.check(&self.tenant).map_err(Box::new)?;
        self.check_interface()
    }
}

fn check_layers(layers: &[Digest]) -> Result<(), ManifestError> {
    if layers.len() > LAYERS_MAX {
        return Err(ManifestError::TooManyLayers {
            given: layers.len(),
        });
    }
    let duplicate = (1..layers.len()).find(|&at| layers[..at].contains(&layers[at]));
    match duplicate {
        Some(at) => Err(ManifestError::DuplicateLayer {
            digest: layers[at].clone(),
        }),
        None => Ok(()),
    }
}
