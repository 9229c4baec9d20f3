//! Reading a bundle: what does not match its digest is an error, never served.

use bytes::Bytes;
use object_store::ObjectStoreExt;

use crate::{
    digest::Digest,
    records,
    repository::{Repository, RepositoryError, failed},
};

impl Repository {
    /// The bundle that `digest` names, verified.
    ///
    /// # Errors
    /// [`RepositoryError`]; `CorruptBundle` when other bytes are stored under that name.
    pub async fn bundle(&self, digest: &Digest) -> Result<Bytes, RepositoryError> {
        let failed = |source| failed(format!("read the bundle {digest}"), source);
        let bytes = match self.objects.get(&records::bundle_path(digest)).await {
            Ok(found) => found.bytes().await.map_err(failed)?,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(RepositoryError::NoBundle {
                    digest: digest.clone(),
                });
            }
            Err(source) => return Err(failed(source)),
        };
        if !digest.is_of(&bytes) {
            return Err(RepositoryError::CorruptBundle {
                digest: digest.clone(),
            });
        }
        Ok(bytes)
    }
}
