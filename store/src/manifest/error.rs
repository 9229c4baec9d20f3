//! Why a manifest is refused.

use super::{LAYERS_MAX, MANIFEST_PATH, METHODS};
use crate::{
    digest::Digest, egress::EgressError, environment::EnvironmentError, schema::SchemaError,
    trigger::TriggerError,
};

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not UTF-8.
    #[error("{MANIFEST_PATH} is not UTF-8 text")]
    Encoding,
    /// Not TOML, an unknown or missing key, or a value of the wrong kind.
    #[error("{MANIFEST_PATH} cannot be read: {reason}")]
    Syntax {
        /// What the parser said, with line and column.
        reason: String,
    },
    /// A number outside its range.
    #[error("{MANIFEST_PATH}: `{key} = {given}` is outside the allowed range {min} to {max}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// Its value.
        given: u32,
        /// Smallest value allowed.
        min: u32,
        /// Largest value allowed.
        max: u32,
    },
    /// A name that breaks the rule for function names.
    #[error(
        "`name = \"{given}\"` is no function name: 1 to 63 of a-z, 0-9 and `-`, \
         beginning with a letter or digit"
    )]
    Name {
        /// The refused name.
        given: String,
    },
    /// An entry that is no plain relative path.
    #[error("`entry = \"{given}\"` must be a path inside the bundle, such as `f.py`")]
    Entry {
        /// The refused path.
        given: String,
    },
    /// More layers than a sandbox mounts.
    #[error("{MANIFEST_PATH}: `layers` has {given} entries, more than the {LAYERS_MAX} allowed")]
    TooManyLayers {
        /// How many.
        given: usize,
    },
    /// A layer that stands there twice.
    #[error("{MANIFEST_PATH}: `layers` holds {digest} twice")]
    DuplicateLayer {
        /// Which.
        digest: Digest,
    },
    /// An entry that its runtime cannot load.
    #[error(
        "`entry = \"{given}\"`: `runtime = \"node\"` loads files that end in .js, .cjs or .mjs"
    )]
    EntryKind {
        /// The refused path.
        given: String,
    },
    /// An interface that its runtime does not have.
    #[error(
        "`interface`: only `runtime = \"python3\"` has wsgi, asgi and auto; the others have event and http"
    )]
    Interface,
    /// An application that is no name.
    #[error("`app = \"{given}\"` must be the name of a variable of the entry, such as `app`")]
    App {
        /// The refused name.
        given: String,
    },
    /// A method that is none, or is there twice, or no method at all.
    #[error("`methods` must be one or more of {}, each once: `{given}` is not", METHODS.join(", "))]
    Method {
        /// The refused method.
        given: String,
    },
    /// A tenant that breaks the rule for names.
    #[error(
        "`tenant = \"{given}\"` is no name of a tenant: 1 to 63 of a-z, 0-9 and `-`, \
         beginning with a letter or digit"
    )]
    Tenant {
        /// The refused name.
        given: String,
    },
    /// An environment that cannot be.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// Too many networks.
    #[error(transparent)]
    Network(#[from] EgressError),
    /// A schema that cannot be compiled.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Triggers that cannot be pulled.
    #[error("{MANIFEST_PATH}: {0}")]
    Triggers(#[from] Box<TriggerError>),
}
