//! From records to catalog: pure, so that the same records always give the same catalog and revision.

use std::collections::BTreeMap;

use ebpf_common::ids::FunctionId;
use sha2::{Digest as _, Sha256};

use crate::{
    api::types::{Catalog, CatalogEntry, FunctionDetail, FunctionSummary, LATEST, VersionSummary},
    records::VersionRecord,
};

/// A revision keeps this many bits: what every JSON reader holds exactly.
const REVISION_BITS: u32 = 53;

/// What is known of one function, deleted versions left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) versions: BTreeMap<u32, VersionRecord>,
    /// Set by hand; `latest` is not among them.
    pub(crate) aliases: BTreeMap<String, u32>,
    /// Highest version number that has a record, readable or not.
    pub(crate) highest: u32,
    /// Versions up to this one were deleted.
    pub(crate) deleted_through: u32,
}

/// Everything read from the object store, at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) functions: BTreeMap<String, Function>,
    pub(crate) catalog: Catalog,
}

impl Function {
    /// Leaves out what a deletion covers, and aliases of versions that are not there.
    pub(crate) fn settle(&mut self) {
        let through = self.deleted_through;
        self.versions.retain(|version, _| *version > through);
        let versions = &self.versions;
        self.aliases
            .retain(|_, version| versions.contains_key(version));
    }

    /// The newest version, if there is any.
    pub(crate) fn latest(&self) -> Option<u32> {
        self.versions.keys().next_back().copied()
    }

    /// The number that the next version gets.
    pub(crate) fn next_version(&self) -> u32 {
        self.highest.max(self.deleted_through) + 1
    }

    /// Aliases with their versions, `latest` included.
    fn all_aliases(&self) -> BTreeMap<String, u32> {
        let latest = self.latest().map(|version| (LATEST.to_owned(), version));
        self.aliases.clone().into_iter().chain(latest).collect()
    }

    pub(crate) fn detail(&self, name: &str) -> FunctionDetail {
        FunctionDetail {
            name: name.to_owned(),
            versions: self
                .versions
                .iter()
                .map(|(version, record)| VersionSummary {
                    version: *version,
                    digest: record.digest.clone(),
                    bundle_bytes: record.bundle_bytes,
                    published_at_ms: record.published_at_ms,
                    manifest: record.manifest.clone(),
                })
                .collect(),
            aliases: self.all_aliases(),
        }
    }

    fn entries(&self, name: &str) -> impl Iterator<Item = CatalogEntry> {
        let numbers = self
            .versions
            .keys()
            .map(|version| (version.to_string(), *version));
        let aliases = self.all_aliases();
        numbers
            .chain(aliases)
            .filter_map(move |(selector, version)| {
                let record = self.versions.get(&version)?;
                let qualified = format!("{name}@{selector}");
                Some(CatalogEntry {
                    id: FunctionId::of(&qualified),
                    name: name.to_owned(),
                    qualified,
                    version,
                    digest: record.digest.clone(),
                    manifest: record.manifest.clone(),
                })
            })
    }
}

impl State {
    /// The state of these functions.
    pub(crate) fn of(functions: BTreeMap<String, Function>) -> Self {
        let mut entries: Vec<_> = functions
            .iter()
            .flat_map(|(name, function)| function.entries(name))
            .collect();
        entries.sort_by(|one, other| one.qualified.cmp(&other.qualified));
        let catalog = Catalog {
            revision: revision(&entries),
            entries,
        };
        Self { functions, catalog }
    }

    /// A function that has at least one version.
    pub(crate) fn function(&self, name: &str) -> Option<&Function> {
        self.functions
            .get(name)
            .filter(|function| !function.versions.is_empty())
    }

    pub(crate) fn summaries(&self) -> Vec<FunctionSummary> {
        self.functions
            .iter()
            .filter_map(|(name, function)| {
                let (latest, record) = function.versions.last_key_value()?;
                Some(FunctionSummary {
                    name: name.clone(),
                    latest: *latest,
                    versions: u32::try_from(function.versions.len()).unwrap_or(u32::MAX),
                    digest: record.digest.clone(),
                })
            })
            .collect()
    }
}

/// The first bits of the SHA-256 of the entries' JSON.
fn revision(entries: &[CatalogEntry]) -> u64 {
    let json = serde_json::to_vec(entries).expect("an entry holds only strings and numbers");
    let digest: [u8; 32] = Sha256::digest(json).into();
    let (head, _) = digest
        .split_first_chunk::<8>()
        .expect("a digest has 32 bytes");
    u64::from_be_bytes(*head) >> (u64::BITS - REVISION_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{digest::Digest, manifest::Manifest};

    fn record(content: &str) -> VersionRecord {
        VersionRecord {
            digest: Digest::of(content.as_bytes()),
            bundle_bytes: 1,
            published_at_ms: 1,
            manifest: Manifest::parse(b"name = \"f\"").unwrap(),
        }
    }

    fn function(versions: &[u32], aliases: &[(&str, u32)], deleted_through: u32) -> Function {
        let mut function = Function {
            versions: versions.iter().map(|v| (*v, record("x"))).collect(),
            aliases: aliases.iter().map(|(a, v)| ((*a).to_owned(), *v)).collect(),
            highest: versions.iter().copied().max().unwrap_or(0),
            deleted_through,
        };
        function.settle();
        function
    }

    fn state(function: Function) -> State {
        State::of(BTreeMap::from([("f".to_owned(), function)]))
    }

    #[test]
    fn each_version_and_each_alias_has_an_entry() {
        let state = state(function(&[1, 2], &[("prod", 1)], 0));
        let entries: Vec<_> = state
            .catalog
            .entries
            .iter()
            .map(|entry| (entry.qualified.as_str(), entry.version))
            .collect();
        assert_eq!(
            entries,
            [("f@1", 1), ("f@2", 2), ("f@latest", 2), ("f@prod", 1)]
        );
        let latest = &state.catalog.entries[2];
        assert_eq!(latest.id, FunctionId::of("f"));
    }

    #[test]
    fn a_deletion_hides_versions_and_their_aliases_and_keeps_their_numbers() {
        let function = function(&[1, 2], &[("prod", 1)], 2);
        assert!(function.versions.is_empty() && function.aliases.is_empty());
        assert_eq!(function.next_version(), 3);
        let state = state(function);
        assert!(state.function("f").is_none());
        assert!(state.summaries().is_empty());
        assert_eq!(state.catalog, State::of(BTreeMap::new()).catalog);
    }

    #[test]
    fn a_revision_names_the_content_and_nothing_else() {
        let one = state(function(&[1], &[], 0)).catalog.revision;
        assert_eq!(state(function(&[1], &[], 0)).catalog.revision, one);
        assert_ne!(state(function(&[1, 2], &[], 0)).catalog.revision, one);
        assert_ne!(state(function(&[1], &[("p", 1)], 0)).catalog.revision, one);
        assert!(one < 1 << REVISION_BITS);
    }
}
