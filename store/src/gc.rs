//! Deleting functions, and collecting bundles and layers that no version names any more.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use futures_util::TryStreamExt;
use object_store::{ObjectStoreExt, PutMode, path::Path};
use tracing::{info, warn};

use crate::{
    api::types::Deleted,
    digest::Digest,
    records::{self, DeletedRecord, Key},
    repository::{Repository, RepositoryError, failed},
};

/// A bundle without a version is left alone for this long: it may belong to a publisher in another
/// process that has not written its version record yet.
const ORPHAN_AGE_MIN: Duration = Duration::from_secs(60 * 60);

impl Repository {
    /// Deletes all versions and aliases of a function, and the bundles that nothing else names. Writing the
    /// deletion record is the one step that counts; what a crash leaves behind it is invisible.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn delete(&self, name: &str) -> Result<Deleted, RepositoryError> {
        let _changing = self.changing.lock().await;
        let function = self.refresh_existing(name).await?;
        let through = function.highest;
        let path = records::key_path(name, &Key::Deleted);
        self.put_json(&path, &DeletedRecord { through }, PutMode::Overwrite)
            .await
            .map_err(|source| failed(format!("delete `{name}`"), source))?;
        self.refresh(name).await?;
        let versions = function
            .versions
            .keys()
            .map(|version| Key::Version(*version));
        let aliases = function
            .aliases
            .keys()
            .map(|alias| Key::Alias(alias.clone()));
        for key in versions.chain(aliases) {
            self.discard(&records::key_path(name, &key)).await;
        }
        let named = self.named_digests();
        let freed: BTreeSet<&Digest> = function
            .versions
            .values()
            .map(|record| &record.digest)
            .filter(|digest| !named.contains(*digest))
            .collect();
        for digest in &freed {
            self.discard(&records::bundle_path(digest)).await;
        }
        info!(
            function = name,
            through,
            bundles = freed.len(),
            "function deleted"
        );
        Ok(Deleted {
            name: name.to_owned(),
            versions: u32::try_from(function.versions.len()).unwrap_or(u32::MAX),
            bundles: u32::try_from(freed.len()).unwrap_or(u32::MAX),
        })
    }

    /// Removes bundles and layers that no version names and that are older than an hour: what crashes
    /// between a bundle and its version record left, and the layers of deleted functions. Says how many.
    ///
    /// # Errors
    /// [`RepositoryError::Storage`] when they cannot be listed.
    pub async fn collect_orphans(&self) -> Result<u32, RepositoryError> {
        self.collect_older_than(ORPHAN_AGE_MIN).await
    }

    pub(crate) async fn collect_older_than(&self, age: Duration) -> Result<u32, RepositoryError> {
        let _changing = self.changing.lock().await;
        let mut listed = Vec::new();
        for folder in [records::BUNDLES, records::LAYERS] {
            let found: Vec<_> = self
                .objects
                .list(Some(&Path::from(folder)))
                .try_collect()
                .await
                .map_err(|source| failed(format!("list {folder}"), source))?;
            listed.extend(found);
        }
        let bundles = self.named_digests();
        let layers = self.named_layers();
        let bundles = bundles.iter().map(records::bundle_path);
        let layers = layers.iter().map(records::layer_path);
        let named: BTreeSet<Path> = bundles.chain(layers).collect();
        let mut removed = 0;
        for meta in listed {
            let since = SystemTime::now().duration_since(meta.last_modified.into());
            let is_old = since.is_ok_and(|since| since >= age);
            if is_old && !named.contains(&meta.location) {
                self.discard(&meta.location).await;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn named_digests(&self) -> BTreeSet<Digest> {
        self.state()
            .functions
            .values()
            .flat_map(|function| function.versions.values())
            .map(|record| record.digest.clone())
            .collect()
    }

    fn named_layers(&self) -> BTreeSet<Digest> {
        self.state()
            .functions
            .values()
            .flat_map(|function| function.versions.values())
            .flat_map(|record| record.manifest.layers.iter().cloned())
            .collect()
    }

    /// Removes what no reader sees any more; if that fails, it only takes up space.
    pub(crate) async fn discard(&self, path: &Path) {
        match self.objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => warn!(%path, %error, "an object that is no longer needed stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::{PutPayload, memory::InMemory};

    use super::*;
    use crate::{manifest::Manifest, records::VersionRecord, unpack::Limits};

    #[tokio::test]
    async fn layers_stay_as_long_as_a_version_names_them() {
        let objects = std::sync::Arc::new(InMemory::new());
        let (named, orphan) = (Digest::of(b"named"), Digest::of(b"orphan"));
        for digest in [&named, &orphan] {
            let payload = PutPayload::from_static(b"a layer");
            objects
                .put(&records::layer_path(digest), payload)
                .await
                .unwrap();
        }
        let manifest = format!("name = \"f\"\nlayers = [\"{named}\"]");
        let record = VersionRecord {
            digest: Digest::of(b"bundle"),
            bundle_bytes: 6,
            published_at_ms: 0,
            manifest: Manifest::parse(manifest.as_bytes()).unwrap(),
        };
        let repository = Repository::over(objects, Limits::default()).await.unwrap();
        let path = records::key_path("f", &Key::Version(1));
        repository
            .put_json(&path, &record, PutMode::Create)
            .await
            .unwrap();
        repository.rescan().await.unwrap();
        let collect = || repository.collect_older_than(Duration::ZERO);
        assert_eq!(collect().await.unwrap(), 1, "the orphan");
        let both = [named.clone(), orphan.clone()];
        assert_eq!(
            repository.missing_layer(&both).await.unwrap(),
            Some(&orphan)
        );
        repository.delete("f").await.unwrap();
        assert_eq!(collect().await.unwrap(), 1, "nothing names it any more");
        assert_eq!(repository.missing_layer(&both).await.unwrap(), Some(&named));
    }

    #[tokio::test]
    async fn bundles_without_a_version_are_collected_once_they_are_old() {
        let objects = std::sync::Arc::new(InMemory::new());
        let (named, orphan) = (Digest::of(b"named"), Digest::of(b"orphan"));
        for (digest, content) in [(&named, &b"named"[..]), (&orphan, b"orphan")] {
            let payload = PutPayload::from_static(content);
            objects
                .put(&records::bundle_path(digest), payload)
                .await
                .unwrap();
        }
        let record = VersionRecord {
            digest: named.clone(),
            bundle_bytes: 5,
            published_at_ms: 0,
            manifest: Manifest::parse(b"name = \"f\"").unwrap(),
        };
        let repository = Repository::over(objects, Limits::default()).await.unwrap();
        let path = records::key_path("f", &Key::Version(1));
        repository
            .put_json(&path, &record, PutMode::Create)
            .await
            .unwrap();
        repository.rescan().await.unwrap();

        assert_eq!(
            repository.collect_orphans().await.unwrap(),
            0,
            "both are young"
        );
        assert_eq!(
            repository.collect_older_than(Duration::ZERO).await.unwrap(),
            1
        );
        assert!(repository.bundle(&named).await.is_ok());
        let gone = repository.bundle(&orphan).await;
        assert!(matches!(gone, Err(RepositoryError::NoBundle { .. })));
    }
}
