//! Reading a bundle or a layer: what does not match its digest is an error, never served.

use bytes::Bytes;
use object_store::{ObjectStoreExt, path::Path};

use crate::{
    digest::Digest,
    records,
    repository::{Repository, RepositoryError, failed},
};

/// What is stored under a digest.
enum Found {
    Whole(Bytes),
    Corrupt,
    Nothing,
}

impl Repository {
    /// The bundle that `digest` names, verified.
    ///
    /// # Errors
    /// [`RepositoryError`]; `CorruptBundle` when other bytes are stored under that name.
    pub async fn bundle(&self, digest: &Digest) -> Result<Bytes, RepositoryError> {
        let digest = digest.clone();
        match self.find(&records::bundle_path(&digest), &digest).await? {
            Found::Whole(bytes) => Ok(bytes),
            Found::Corrupt => Err(RepositoryError::CorruptBundle { digest }),
            Found::Nothing => Err(RepositoryError::NoBundle { digest }),
        }
    }

    /// The layer that `digest` names, verified.
    ///
    /// # Errors
    /// [`RepositoryError`]; `CorruptLayer` when other bytes are stored under that name.
    pub async fn layer(&self, digest: &Digest) -> Result<Bytes, RepositoryError> {
        let digest = digest.clone();
        match self.find(&records::layer_path(&digest), &digest).await? {
            Found::Whole(bytes) => Ok(bytes),
            Found::Corrupt => Err(RepositoryError::CorruptLayer { digest }),
            Found::Nothing => Err(RepositoryError::NoLayer { digest }),
        }
    }

    async fn find(&self, path: &Path, digest: &Digest) -> Result<Found, RepositoryError> {
        let failed = |source| failed(format!("read {path}"), source);
        let bytes = match self.objects.get(path).await {
            Ok(found) => found.bytes().await.map_err(failed)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(Found::Nothing),
            Err(source) => return Err(failed(source)),
        };
        Ok(if digest.is_of(&bytes) {
            Found::Whole(bytes)
        } else {
            Found::Corrupt
        })
    }
}
