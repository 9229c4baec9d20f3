//! Layers of packages.

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use store::Digest;
use tempfile::TempDir;

use crate::bed::{archive, files, refused, start};

#[tokio::test]
async fn a_layer_is_stored_once_and_stays_while_functions_name_it() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "[limits]\nlayer_bytes = 4096\n").await;
    let layer = archive(&[("six.py", "x = 6\n")]);
    let digest = Digest::of(&layer);
    assert!(!store.client.has_layer(&digest).await.unwrap());
    let manifest = format!("name = \"uses\"\nlayers = [\"{digest}\"]");
    let uses = archive(&[("warmpath.toml", &manifest), ("f.py", "")]);
    let missing = refused(store.client.publish(None, uses.clone()).await);
    assert_eq!(
        (missing.kind.as_str(), missing.fault.as_str()),
        ("missing_layer", "caller")
    );
    assert!(store.entries().await.is_empty());
    for _ in 0..2 {
        let stored = store.client.put_layer(layer.clone()).await.unwrap();
        assert_eq!((&stored.digest, stored.unpacked_bytes), (&digest, 6));
    }
    assert!(store.client.has_layer(&digest).await.unwrap());
    store.client.publish(None, uses).await.unwrap();
    assert_eq!(store.client.layer(&digest).await.unwrap(), layer);
    let stored = dir.path().join("objects/layers/sha256").join(digest.hex());
    std::fs::write(&stored, "harmed").unwrap();
    let corrupt = refused(store.client.layer(&digest).await);
    assert_eq!(corrupt.kind, "corrupt_layer");
    assert!(!store.client.has_layer(&digest).await.unwrap());
    store.client.put_layer(layer).await.unwrap();
    assert!(store.client.has_layer(&digest).await.unwrap());
    store.stop().await;
}

#[tokio::test]
async fn a_layer_that_breaks_a_rule_is_refused_and_not_stored() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "[limits]\nlayer_bytes = 4096\nlayer_files = 2\n").await;
    let escaping = {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..9].copy_from_slice(b"../escape");
        header.set_size(0);
        header.set_cksum();
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        builder.append(&header, &b""[..]).unwrap();
        Bytes::from(builder.into_inner().unwrap().finish().unwrap())
    };
    let many = archive(&[("a.py", ""), ("b.py", ""), ("c.py", "")]);
    for (layer, kind) in [
        (escaping, "bundle_parent_path"),
        (many, "bundle_too_many_files"),
        (Bytes::from_static(b"no archive"), "bundle_not_an_archive"),
        (Bytes::from(vec![0; 5_000]), "bundle_too_large"),
    ] {
        let body = refused(store.client.put_layer(layer).await);
        assert_eq!((body.kind.as_str(), body.fault.as_str()), (kind, "caller"));
    }
    assert!(files(&dir.path().join("objects")).is_empty());
    store.stop().await;
}
