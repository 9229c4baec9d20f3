//! Package layers: archives like bundles, but without a manifest, named by digest, stored once and shared by
//! all functions whose manifests name them.
//!
//! A layer exists before the function that uses it: it is put first, and publishing checks that it is there.
//! It goes when no version names it any more ([`Repository::collect_orphans`]).

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutPayload};
use tracing::{info, warn};

use crate::{
    api::types::StoredLayer,
    digest::Digest,
    publish::PublishError,
    records,
    repository::{Repository, RepositoryError, failed},
    unpack,
};

impl Repository {
    /// Stores `layer`; one that is there already is left as it is, or mended if it is corrupt.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is stored then.
    pub async fn put_layer(&self, layer: Bytes) -> Result<StoredLayer, PublishError> {
        let (contents, digest) = {
            let (layer, limits) = (layer.clone(), self.layer_limits);
            tokio::task::spawn_blocking(move || {
                unpack::check_layer(&layer, &limits).map(|found| (found, Digest::of(&layer)))
            })
            .await
            .map_err(PublishError::Stopping)?
            .map_err(PublishError::Refused)?
        };
        let _changing = self.changing.lock().await;
        let stored = StoredLayer {
            digest: digest.clone(),
            bytes: layer.len() as u64,
            unpacked_bytes: contents.bytes,
        };
        match self.layer(&digest).await {
            Ok(_) => return Ok(stored),
            Err(RepositoryError::NoLayer { .. }) => {}
            Err(RepositoryError::CorruptLayer { .. }) => {
                warn!(%digest, "a stored layer is corrupt and is replaced");
            }
            Err(error) => return Err(error.into()),
        }
        self.objects
            .put(&records::layer_path(&digest), PutPayload::from(layer))
            .await
            .map_err(|source| failed(format!("store the layer {digest}"), source))?;
        info!(%digest, bytes = stored.bytes, "layer stored");
        Ok(stored)
    }

    /// The first of `layers` that is not stored.
    pub(crate) async fn missing_layer<'a>(
        &self,
        layers: &'a [Digest],
    ) -> Result<Option<&'a Digest>, RepositoryError> {
        for digest in layers {
            match self.objects.head(&records::layer_path(digest)).await {
                Ok(_) => {}
                Err(object_store::Error::NotFound { .. }) => return Ok(Some(digest)),
                Err(source) => return Err(failed(format!("look for the layer {digest}"), source)),
            }
        }
        Ok(None)
    }
}
