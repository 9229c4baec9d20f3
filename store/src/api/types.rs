//! The bodies of the HTTP API, shared by server and client so that they cannot differ.

use ebpf_common::ids::FunctionId;
use serde::{Deserialize, Serialize};

use crate::{digest::Digest, manifest::Manifest};

/// The alias that always names a function's newest version.
pub const LATEST: &str = "latest";

/// One way to name one version of a function: each version has an entry, and each alias has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogEntry {
    /// The id that requests carry: of `qualified`. In JSON: 16 hexadecimal digits.
    #[serde(with = "function_id")]
    pub id: FunctionId,
    /// The function's name, `hello`.
    pub name: String,
    /// The name with what selects the version: `hello@latest`, `hello@3`.
    pub qualified: String,
    /// The version that this entry stands for.
    pub version: u32,
    /// Its bundle.
    pub digest: Digest,
    /// Its manifest.
    pub manifest: Manifest,
}

/// Everything that can be called, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// Names this content: equal revisions mean equal catalogs, also over a restart of the server and
    /// from one server to another. It is derived from the content (53 bits, exact in any JSON reader),
    /// so it says *whether* something changed and not which of two is newer.
    pub revision: u64,
    /// Sorted by `qualified`.
    pub entries: Vec<CatalogEntry>,
}

/// What publishing gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The function's name.
    pub name: String,
    /// Its new version.
    pub version: u32,
    /// The bundle's digest.
    pub digest: Digest,
    /// The id of `name@version`.
    #[serde(with = "function_id")]
    pub id: FunctionId,
}

/// A layer that the store has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLayer {
    /// What manifests name it by.
    pub digest: Digest,
    /// Its bytes, compressed.
    pub bytes: u64,
    /// Bytes of all its files together.
    pub unpacked_bytes: u64,
}

/// One row of the list of functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSummary {
    /// The function's name.
    pub name: String,
    /// Its newest version.
    pub latest: u32,
    /// How many versions there are.
    pub versions: u32,
    /// The digest of the newest version.
    pub digest: Digest,
}

/// One version, as `show` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionSummary {
    /// Its number.
    pub version: u32,
    /// Its bundle.
    pub digest: Digest,
    /// Bytes of the bundle, compressed.
    pub bundle_bytes: u64,
    /// When it was published, in milliseconds since 1970.
    pub published_at_ms: u64,
    /// Its manifest.
    pub manifest: Manifest,
}

/// Everything the store knows of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDetail {
    /// The function's name.
    pub name: String,
    /// Oldest first.
    pub versions: Vec<VersionSummary>,
    /// Alias to version, `latest` included.
    pub aliases: std::collections::BTreeMap<String, u32>,
}

/// What deleting a function removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The function's name.
    pub name: String,
    /// Versions removed.
    pub versions: u32,
    /// Bundles that nothing else referred to, removed with them.
    pub bundles: u32,
}

/// Body of `PUT /v1/functions/{name}/aliases/{alias}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAlias {
    /// The version that the alias shall name.
    pub version: u32,
}

/// Body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence for people: what was attempted on what, and what to do.
    pub error: String,
    /// The HTTP status code again, for logs that lose it.
    pub status: u16,
    /// One word for programs, such as `bundle_symlink`; stable.
    pub kind: String,
    /// Who has to act: `caller` or `platform`.
    pub fault: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

/// [`FunctionId`] as 16 hexadecimal digits.
pub mod function_id {
    use ebpf_common::ids::FunctionId;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes the digits.
    ///
    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<S: Serializer>(id: &FunctionId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    /// Reads exactly 16 digits.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FunctionId, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(&text, 16) {
            Ok(id) if is_hex => Ok(FunctionId(id)),
            _ => Err(de::Error::custom(format_args!(
                "`{text}` is no function id: expected 16 hexadecimal digits"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_id_is_sixteen_digits_in_json() {
        let published = Published {
            name: "a".to_owned(),
            version: 1,
            digest: Digest::of(b""),
            id: FunctionId(0xab),
        };
        let json = serde_json::to_string(&published).unwrap();
        assert!(json.contains("\"00000000000000ab\""), "{json}");
        assert_eq!(serde_json::from_str::<Published>(&json).unwrap(), published);
        for bad in ["ab", "+0000000000000ab", "00000000000000zz"] {
            assert!(
                serde_json::from_str::<Published>(&json.replace("00000000000000ab", bad)).is_err()
            );
        }
    }
}
