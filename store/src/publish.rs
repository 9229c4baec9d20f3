//! Publishing: verify everything, then store the bundle, then write the version record, which is the one
//! step that makes the version exist. A crash in between leaves a bundle that nothing names, for `gc`.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ebpf_common::ids::FunctionId;
use object_store::{ObjectStoreExt, PutMode, PutPayload};
use tracing::{info, warn};

use crate::{
    api::types::Published,
    digest::Digest,
    manifest::{self, ManifestError},
    records::{self, Key, VersionRecord},
    repository::{Repository, RepositoryError, failed},
    unpack::{self, UnpackError},
};

/// Version numbers tried when other publishers on the same object store take them first.
const ATTEMPTS_MAX: u32 = 1_000;

/// Why a bundle was not published. Nothing was stored, unless [`PublishError::Storage`] says that the
/// object store failed half-way; then the version does not exist.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The bundle breaks a rule.
    #[error("{0}")]
    Refused(#[source] UnpackError),
    /// The name to publish under is none.
    #[error("{0}")]
    Name(#[source] ManifestError),
    /// The manifest names a layer that is not stored.
    #[error(
        "cannot publish `{name}`: its manifest names the layer {digest}, which is not stored; \
         deploy the function from its directory, which makes its layers"
    )]
    NoLayer {
        /// The function.
        name: String,
        /// The layer.
        digest: Digest,
    },
    /// The bundle did not arrive whole, or in time.
    #[error("the bundle did not arrive whole: {reason}")]
    Upload {
        /// What went wrong.
        reason: String,
    },
    /// Others took every version number that was tried.
    #[error(
        "cannot publish `{name}`: other publishers took {ATTEMPTS_MAX} version numbers; try again"
    )]
    Contended {
        /// The function.
        name: String,
    },
    /// The check was interrupted because the store is stopping.
    #[error("cannot publish: the store is stopping")]
    Stopping(#[source] tokio::task::JoinError),
    /// The object store failed.
    #[error(transparent)]
    Storage(#[from] RepositoryError),
}

impl Repository {
    /// Publishes `bundle` as the next version of the function that its manifest names, or of `name`.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(
        &self,
        name: Option<&str>,
        bundle: Bytes,
    ) -> Result<Published, PublishError> {
        if let Some(name) = name {
            manifest::check_name(name).map_err(PublishError::Name)?;
        }
        let (checked, digest) = {
            let (bundle, limits) = (bundle.clone(), self.limits);
            tokio::task::spawn_blocking(move || {
                unpack::check(&bundle, &limits).map(|checked| (checked, Digest::of(&bundle)))
            })
            .await
            .map_err(PublishError::Stopping)?
            .map_err(PublishError::Refused)?
        };
        let mut manifest = checked.manifest;
        if let Some(name) = name {
            name.clone_into(&mut manifest.name);
        }
        let name = manifest.name.clone();
        let record = VersionRecord {
            digest: digest.clone(),
            bundle_bytes: bundle.len() as u64,
            published_at_ms: now_ms(),
            manifest,
        };
        let layers = record.manifest.layers.clone();
        let _changing = self.changing.lock().await;
        self.require_layers(&name, &layers).await?;
        self.store_bundle(&digest, &bundle).await?;
        let version = self.create_version(&name, &record).await?;
        self.keep_bundle(&name, version, &digest, &bundle).await?;
        self.keep_layers(&name, version, &layers).await?;
        self.refresh(&name).await?;
        info!(function = name, version, %digest, "version published");
        Ok(Published {
            id: FunctionId::of(&format!("{name}@{version}")),
            name,
            version,
            digest,
        })
    }

    /// Stores a bundle that is not there yet, and mends one that is there but corrupt. Looks before it
    /// writes: `PutMode::Create` writes a whole copy before it finds the name taken.
    async fn store_bundle(&self, digest: &Digest, bundle: &Bytes) -> Result<(), RepositoryError> {
        match self.bundle(digest).await {
            Ok(_) => return Ok(()),
            Err(RepositoryError::NoBundle { .. }) => {}
            Err(RepositoryError::CorruptBundle { .. }) => {
                warn!(%digest, "a stored bundle is corrupt and is replaced");
            }
            Err(error) => return Err(error),
        }
        let payload = PutPayload::from(bundle.clone());
        self.objects
            .put(&records::bundle_path(digest), payload)
            .await
            .map_err(|source| failed(format!("store the bundle {digest}"), source))?;
        Ok(())
    }

    /// Another process may have collected the bundle between our finding it and naming it: if so, stores it
    /// again; if that fails, takes the version back, for it must not name what is not there.
    async fn keep_bundle(
        &self,
        name: &str,
        version: u32,
        digest: &Digest,
        bundle: &Bytes,
    ) -> Result<(), RepositoryError> {
        let error = match self.objects.head(&records::bundle_path(digest)).await {
            Err(object_store::Error::NotFound { .. }) => {
                match self.store_bundle(digest, bundle).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
            // Anything but its absence says nothing against the bundle, which we have just stored.
            _ => return Ok(()),
        };
        self.discard(&records::key_path(name, &Key::Version(version)))
            .await;
        self.refresh(name).await?;
        Err(error)
    }

    async fn require_layers(&self, name: &str, layers: &[Digest]) -> Result<(), PublishError> {
        match self.missing_layer(layers).await? {
            None => Ok(()),
            Some(digest) => Err(PublishError::NoLayer {
                name: name.to_owned(),
                digest: digest.clone(),
            }),
        }
    }

    /// As [`Self::keep_bundle`], for layers, whose bytes are not at hand: the version is taken back, and
    /// whoever deploys puts the layer again.
    async fn keep_layers(
        &self,
        name: &str,
        version: u32,
        layers: &[Digest],
    ) -> Result<(), PublishError> {
        let Err(error) = self.require_layers(name, layers).await else {
            return Ok(());
        };
        self.discard(&records::key_path(name, &Key::Version(version)))
            .await;
        self.refresh(name).await?;
        Err(error)
    }

    /// Takes the next free version number for `record`.
    async fn create_version(
        &self,
        name: &str,
        record: &VersionRecord,
    ) -> Result<u32, PublishError> {
        for _ in 0..ATTEMPTS_MAX {
            let version = self.refresh(name).await?.next_version();
            let path = records::key_path(name, &Key::Version(version));
            match self.put_json(&path, record, PutMode::Create).await {
                Ok(()) => {
                    // A deletion by another process may have covered this very number meanwhile.
                    let settled = self.refresh(name).await?;
                    if settled.versions.contains_key(&version) {
                        return Ok(version);
                    }
                }
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(source) => {
                    let action = format!("write version {version} of `{name}`");
                    return Err(failed(action, source).into());
                }
            }
        }
        Err(PublishError::Contended {
            name: name.to_owned(),
        })
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
