//! The RPC schema of a function: where in a payload its session or shard key is found, as a manifest says it, and the compiled
//! extractor that the XDP program runs.

use ebpf_common::schema::{NAME_MAX, PATH_MAX, SCAN_MAX, SchemaEntry, SchemaTarget};
use serde::{Deserialize, Serialize};

use crate::manifest::AffinityKind;

/// `[schema]` of a manifest: exactly one of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Schema {
    /// `json = "user"`: the value of this top-level key, a string without escapes or a number.
    Json(String),
    /// `protobuf = [3, 1]`: the field at this path of numbers, outermost message first.
    Protobuf(Vec<u32>),
    /// `fixed = { offset = 8, size = 16 }`: these bytes.
    Fixed {
        /// Where they begin in the payload.
        offset: u16,
        /// How many they are.
        size: u16,
    },
}

/// Why a schema cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The function has no affinity that a key could serve.
    #[error(
        "`[schema]` finds a session or a shard key, and `affinity` is \"none\": set it to \"session\" or \"shard\""
    )]
    NoAffinity,
    /// A JSON key that cannot be looked for.
    #[error(
        "`schema.json = {given:?}` must be 1 to {NAME_MAX} bytes that JSON writes without an escape"
    )]
    Json {
        /// The key.
        given: String,
    },
    /// A path that no field has.
    #[error(
        "`schema.protobuf = {given:?}` must be 1 to {PATH_MAX} field numbers from 1 to 536,870,911"
    )]
    Protobuf {
        /// The path.
        given: Vec<u32>,
    },
    /// Bytes that lie too far behind, or are none.
    #[error(
        "`schema.fixed` must be at least one byte within the first {SCAN_MAX} of the payload, and is {size} at {offset}"
    )]
    Fixed {
        /// Where they begin.
        offset: u16,
        /// How many they are.
        size: u16,
    },
}

impl Schema {
    /// The extractor, for a function with `affinity`.
    ///
    /// # Errors
    /// [`SchemaError`] names the key and what it allows.
    pub fn compile(&self, affinity: AffinityKind) -> Result<SchemaEntry, SchemaError> {
        let target = match affinity {
            AffinityKind::None => return Err(SchemaError::NoAffinity),
            AffinityKind::Session => SchemaTarget::Session,
            AffinityKind::Shard => SchemaTarget::Slot,
        };
        match self {
            Self::Json(name) => SchemaEntry::json(target, name).ok_or_else(|| SchemaError::Json {
                given: name.clone(),
            }),
            Self::Protobuf(path) => {
                SchemaEntry::protobuf(target, path).ok_or_else(|| SchemaError::Protobuf {
                    given: path.clone(),
                })
            }
            Self::Fixed { offset, size } => {
                SchemaEntry::fixed(target, *offset, *size).ok_or(SchemaError::Fixed {
                    offset: *offset,
                    size: *size,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ebpf_common::{hash::slot_of_key, schema::Key};

    use super::*;
    use crate::manifest::{Manifest, ManifestError};

    fn manifest(affinity: &str, schema: &str) -> Result<Manifest, ManifestError> {
        let text = format!("name = \"a\"\naffinity = \"{affinity}\"\n[schema]\n{schema}\n");
        Manifest::parse(text.as_bytes())
    }

    #[test]
    fn each_form_compiles_to_what_finds_its_key() {
        for (schema, payload) in [
            ("json = \"user\"", &br#"{"user":"ann"}"#[..]),
            ("protobuf = [2]", b"\x12\x03ann"),
            ("fixed = { offset = 1, size = 3 }", b"-ann-"),
        ] {
            let manifest = manifest("shard", schema).unwrap();
            let compiled = manifest.schema.unwrap().compile(AffinityKind::Shard);
            let found = compiled.unwrap().find(payload);
            assert_eq!(found, Some(Key::Slot(slot_of_key(b"ann"))), "{schema}");
        }
    }

    #[test]
    fn a_schema_that_cannot_work_is_refused_at_publishing() {
        for (affinity, schema, says) in [
            ("none", "json = \"user\"", "affinity"),
            ("session", "json = \"\"", "schema.json"),
            ("session", "protobuf = [0]", "schema.protobuf"),
            (
                "session",
                "protobuf = [1, 1, 1, 1, 1, 1, 1]",
                "schema.protobuf",
            ),
            (
                "session",
                "fixed = { offset = 250, size = 7 }",
                "schema.fixed",
            ),
            ("session", "json = \"a\"\nprotobuf = [1]", "cannot be read"),
            ("session", "xml = \"a\"", "xml"),
        ] {
            let error = manifest(affinity, schema).unwrap_err().to_string();
            assert!(error.contains(says), "{schema}: {error}");
        }
    }
}
