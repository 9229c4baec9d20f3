//! The store on a full disk: publishing fails whole, everything published before stays.

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use store::{Limits, PublishError, Published, Repository, RepositoryError};

use super::{drop_ballast, noise, on_a_small_disk};

/// Bytes of the code of one bundle.
const CODE_BYTES: usize = 2_000_000;

fn bundle(seed: u64) -> Bytes {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::none()));
    let code = noise(seed, CODE_BYTES);
    for (path, content) in [
        ("warmpath.toml", b"name = \"f\"".as_slice()),
        ("f.py", &code),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap().into()
}

#[test]
fn a_store_on_a_full_disk_refuses_whole_and_keeps_what_it_has() {
    on_a_small_disk(24, 8, |disk| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let path = disk.join("store");
            let store = Repository::open(&path, Limits::default()).await.unwrap();
            let mut published: Vec<Published> = Vec::new();
            let error = loop {
                match store.publish(None, bundle(published.len() as u64)).await {
                    Ok(version) => published.push(version),
                    Err(error) => break error,
                }
            };
            assert!(
                matches!(
                    error,
                    PublishError::Storage(RepositoryError::DiskFull { .. })
                ),
                "{error:?}"
            );
            assert!(
                published.len() >= 3,
                "only {} bundles fitted",
                published.len()
            );
            let catalog = store.catalog();
            // One entry for each version, one for `latest`: the refused one is not among them.
            assert_eq!(catalog.entries.len(), published.len() + 1);

            // A fresh start reads the same, still without room.
            let store = Repository::open(&path, Limits::default()).await.unwrap();
            assert_eq!(store.catalog(), catalog);
            for version in &published {
                store.bundle(&version.digest).await.unwrap();
            }
            drop_ballast(disk);
            let next = store.publish(None, bundle(99)).await.unwrap();
            assert_eq!(next.version as usize, published.len() + 1);
        });
    });
}
