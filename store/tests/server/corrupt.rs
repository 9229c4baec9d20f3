//! Objects that are not what they were.

use store::{ClientError, Digest, StoreClient};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::bed::{refused, start};

#[tokio::test]
async fn a_corrupt_bundle_is_not_served_and_publishing_it_again_mends_it() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    let published = store.publish("f", "1").await;
    let object = dir
        .path()
        .join("objects/bundles/sha256")
        .join(published.digest.hex());
    std::fs::write(&object, "rotten").unwrap();
    let body = refused(store.client.bundle(&published.digest).await);
    assert_eq!((body.status, body.kind.as_str()), (500, "corrupt_bundle"));
    assert_eq!((body.fault.as_str(), body.retryable), ("platform", false));
    store.publish("f", "1").await;
    assert!(store.client.bundle(&published.digest).await.is_ok());
    store.stop().await;
}

#[tokio::test]
async fn a_corrupt_record_takes_only_its_own_version_away() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    store.publish("f", "1").await;
    store.publish("g", "1").await;
    store.stop().await;
    let record = dir
        .path()
        .join("objects/functions/f/versions/0000000001.json");
    std::fs::write(&record, "{").unwrap();
    let store = start(&dir, "").await;
    let names: Vec<_> = store
        .entries()
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["g@1", "g@latest"]);
    // Its number is still taken.
    assert_eq!(store.publish("f", "2").await.version, 2);
    store.stop().await;
}

#[tokio::test]
async fn a_client_does_not_take_bytes_of_another_digest() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let routes = axum::Router::new().fallback(|| async { "not what you asked for" });
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let client = StoreClient::new(&base).unwrap();
    let error = client.bundle(&Digest::of(b"wanted")).await.unwrap_err();
    assert!(matches!(error, ClientError::Corrupt { .. }), "{error}");
    assert!(matches!(
        client.catalog().await,
        Err(ClientError::BadAnswer { .. })
    ));
}
