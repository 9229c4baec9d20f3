//! What the object store holds, and where.
//!
//! ```text
//! bundles/sha256/<64 hex>                    a bundle, as it was sent
//! layers/sha256/<64 hex>                     a package layer, as it was sent
//! functions/<name>/versions/<10 digits>.json VersionRecord; written once, by PutMode::Create
//! functions/<name>/aliases/<alias>.json      AliasRecord; overwritten
//! functions/<name>/deleted.json              DeletedRecord; overwritten
//! ```
//!
//! A version exists when its record does and no deletion covers it. `latest` is not stored: it is the
//! highest version, so that no race between publishers can leave it behind.

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::{api::types::LATEST, digest::Digest, manifest, manifest::Manifest};

/// Where everything about functions lies.
pub(crate) const FUNCTIONS: &str = "functions";
/// Where bundles lie.
pub(crate) const BUNDLES: &str = "bundles/sha256";
/// Where package layers lie.
pub(crate) const LAYERS: &str = "layers/sha256";
/// Longest alias.
const ALIAS_LEN_MAX: usize = 63;

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionRecord {
    pub(crate) digest: Digest,
    pub(crate) bundle_bytes: u64,
    pub(crate) published_at_ms: u64,
    pub(crate) manifest: Manifest,
}

/// One alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AliasRecord {
    pub(crate) version: u32,
}

/// A deletion. It stays, so that version numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeletedRecord {
    /// Versions up to this one are gone.
    pub(crate) through: u32,
}

/// What a path below [`FUNCTIONS`] stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Version(u32),
    Alias(String),
    Deleted,
}

pub(crate) fn bundle_path(digest: &Digest) -> Path {
    Path::from(format!("{BUNDLES}/{}", digest.hex()))
}

pub(crate) fn layer_path(digest: &Digest) -> Path {
    Path::from(format!("{LAYERS}/{}", digest.hex()))
}

pub(crate) fn function_path(name: &str) -> Path {
    Path::from(format!("{FUNCTIONS}/{name}"))
}

pub(crate) fn key_path(name: &str, key: &Key) -> Path {
    let rest = match key {
        Key::Version(version) => format!("versions/{version:010}.json"),
        Key::Alias(alias) => format!("aliases/{alias}.json"),
        Key::Deleted => "deleted.json".to_owned(),
    };
    Path::from(format!("{FUNCTIONS}/{name}/{rest}"))
}

/// The function and key of a path; `None` for anything that is not ours.
pub(crate) fn parse_path(path: &Path) -> Option<(String, Key)> {
    let rest = path.as_ref().strip_prefix(FUNCTIONS)?.strip_prefix('/')?;
    let (name, rest) = rest.split_once('/')?;
    manifest::check_name(name).ok()?;
    let key = match rest.split_once('/') {
        None if rest == "deleted.json" => Key::Deleted,
        Some(("versions", file)) => Key::Version(file.strip_suffix(".json")?.parse().ok()?),
        Some(("aliases", file)) => {
            let alias = file.strip_suffix(".json")?;
            Key::Alias(is_alias(alias).then(|| alias.to_owned())?)
        }
        _ => return None,
    };
    // Only the one spelling that we write.
    (key_path(name, &key) == *path).then(|| (name.to_owned(), key))
}

/// Whether `alias` may be set by hand: like a name, but beginning with a letter, so that it is never
/// taken for a version; and not [`LATEST`], which follows the versions by itself.
pub(crate) fn is_alias(alias: &str) -> bool {
    alias != LATEST
        && alias.len() <= ALIAS_LEN_MAX
        && alias.starts_with(|first: char| first.is_ascii_lowercase())
        && manifest::check_name(alias).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_again_from_its_path() {
        for key in [Key::Version(7), Key::Alias("prod".to_owned()), Key::Deleted] {
            let path = key_path("hello", &key);
            assert_eq!(parse_path(&path), Some(("hello".to_owned(), key)));
        }
    }

    #[test]
    fn paths_that_are_not_ours_are_passed_over() {
        for path in [
            "functions/hello/versions/7.json",
            "functions/hello/versions/0000000007.json~",
            "functions/hello/notes.txt",
            "functions/Hello/deleted.json",
            "functions/hello/aliases/latest.json",
            "functions/hello/aliases/7.json",
            "functions/hello",
            "other/hello/deleted.json",
        ] {
            assert_eq!(parse_path(&Path::from(path)), None, "{path}");
        }
    }
}
