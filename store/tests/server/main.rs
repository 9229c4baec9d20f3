//! The store as its clients meet it: over HTTP, restarted, raced, with broken objects and a busy port.
#![expect(
    clippy::unwrap_used,
    reason = "a failed helper should panic where it stands"
)]

mod bed;
mod corrupt;
mod layers;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ebpf_common::ids::FunctionId;
use store::{Digest, ErrorBody, Limits, Repository, RunError};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};

use self::bed::{archive, bundle, config, files, refused, start};

#[tokio::test]
async fn versions_count_up_and_latest_follows() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    let one = store.publish("hello", "1").await;
    assert_eq!((one.name.as_str(), one.version), ("hello", 1));
    assert_eq!(one.id, FunctionId::of("hello@1"));
    assert_eq!(one.digest, Digest::of(&bundle("hello", "1")));
    assert_eq!(store.publish("hello", "2").await.version, 2);
    // The same bundle again is a version again, and one object.
    assert_eq!(store.publish("hello", "1").await.version, 3);
    let expected = [
        ("hello@1", 1),
        ("hello@2", 2),
        ("hello@3", 3),
        ("hello@latest", 3),
    ];
    let expected = expected.map(|(name, version)| (name.to_owned(), version));
    assert_eq!(store.entries().await, expected);
    let bundle_of_one = store.client.bundle(&one.digest).await.unwrap();
    assert_eq!(bundle_of_one, bundle("hello", "1"));
    let catalog = store.client.catalog().await.unwrap();
    assert_eq!(catalog.entries[3].id, FunctionId::of("hello"));
    assert_eq!(
        catalog.entries[0].manifest.affinity,
        store::AffinityKind::Session
    );

    let under_a_name = store.client.publish(Some("other"), bundle("hello", "1"));
    assert_eq!(under_a_name.await.unwrap().name, "other");
    let shown = store.client.show("other").await.unwrap();
    assert_eq!(shown.versions[0].manifest.name, "other");
    let listed = store.client.list().await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|f| (f.name.as_str(), f.latest, f.versions))
        .collect();
    assert_eq!(listed, [("hello", 3, 3), ("other", 1, 1)]);
    store.stop().await;
}

#[tokio::test]
async fn an_alias_is_set_moved_and_removed_by_hand() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    store.publish("f", "1").await;
    store.publish("f", "2").await;
    store.client.set_alias("f", "prod", 1).await.unwrap();
    assert!(store.entries().await.contains(&("f@prod".to_owned(), 1)));
    store.client.set_alias("f", "prod", 2).await.unwrap();
    assert_eq!(store.client.show("f").await.unwrap().aliases["prod"], 2);
    store.client.remove_alias("f", "prod").await.unwrap();
    assert!(
        !store
            .client
            .show("f")
            .await
            .unwrap()
            .aliases
            .contains_key("prod")
    );
    for (alias, version, kind) in [
        ("latest", 1, "bad_alias"),
        ("7", 1, "bad_alias"),
        ("a/b", 1, "bad_alias"),
        ("prod", 9, "no_version"),
    ] {
        let body = refused(store.client.set_alias("f", alias, version).await);
        assert_eq!((body.kind.as_str(), body.fault.as_str()), (kind, "caller"));
    }
    assert_eq!(
        refused(store.client.set_alias("g", "prod", 1).await).kind,
        "no_function"
    );
    assert_eq!(
        refused(store.client.remove_alias("f", "prod").await).kind,
        "no_alias"
    );
    store.stop().await;
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    let published = store.publish("f", "1").await;
    store.publish("gone", "x").await;
    store.client.delete("gone").await.unwrap();
    store.client.set_alias("f", "prod", 1).await.unwrap();
    let before = store.client.catalog().await.unwrap();
    let shown = store.client.show("f").await.unwrap();
    store.stop().await;

    let store = start(&dir, "").await;
    assert_eq!(store.client.catalog().await.unwrap(), before);
    assert_eq!(store.client.show("f").await.unwrap(), shown);
    assert!(store.client.bundle(&published.digest).await.is_ok());
    assert_eq!(store.publish("f", "2").await.version, 2);
    store.stop().await;
}

#[tokio::test]
async fn a_deleted_function_is_gone_and_its_versions_are_never_used_again() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    let shared = store.publish("a", "shared").await.digest;
    let own = store.publish("a", "own").await.digest;
    let under = store
        .client
        .publish(Some("b"), bundle("a", "shared"))
        .await
        .unwrap();
    assert_eq!(under.digest, shared);
    store.client.set_alias("a", "prod", 1).await.unwrap();

    let deleted = store.client.delete("a").await.unwrap();
    assert_eq!((deleted.versions, deleted.bundles), (2, 1));
    assert_eq!(refused(store.client.show("a").await).status, 404);
    assert_eq!(refused(store.client.bundle(&own).await).kind, "no_bundle");
    assert!(
        store.client.bundle(&shared).await.is_ok(),
        "`b` still needs it"
    );
    assert_eq!(refused(store.client.delete("a").await).kind, "no_function");
    let names: Vec<_> = store
        .entries()
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["b@1", "b@latest"]);

    assert_eq!(store.publish("a", "new").await.version, 3);
    assert!(
        !store
            .client
            .show("a")
            .await
            .unwrap()
            .aliases
            .contains_key("prod")
    );
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_publishers_all_get_versions_of_their_own() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    // A second process, so to say: another repository over the same folder, without our lock.
    let objects = dir.path().join("objects");
    let other = Repository::open(&objects, Limits::default()).await.unwrap();
    let other = Arc::new(other);
    let mut racers = Vec::new();
    for racer in 0..8 {
        let (client, other) = (store.client.clone(), Arc::clone(&other));
        racers.push(tokio::spawn(async move {
            let bundle = bundle("f", &racer.to_string());
            if racer % 2 == 0 {
                client.publish(None, bundle).await.unwrap()
            } else {
                other.publish(None, bundle).await.unwrap()
            }
        }));
    }
    let mut versions = Vec::new();
    for racer in racers {
        let published = racer.await.unwrap();
        versions.push(published.version);
        store.client.bundle(&published.digest).await.unwrap();
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<_>>());
    store.stop().await;
}

#[tokio::test]
async fn a_waiting_client_hears_of_a_change_at_once() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    let revision = store.client.catalog().await.unwrap().revision;
    let client = store.client.clone();
    let started = std::time::Instant::now();
    let waiter = tokio::spawn(async move {
        client
            .wait_for_change(revision, Duration::from_secs(20))
            .await
    });
    // Wait until the server has the poll, then change something.
    let metrics = format!("{}/metrics", store.base);
    let text = async || reqwest::get(&metrics).await.unwrap().text().await.unwrap();
    while !text().await.contains("store_catalog_waiters 1") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.publish("f", "1").await;
    let catalog = waiter.await.unwrap().unwrap();
    assert_eq!(catalog.entries.len(), 2);
    assert_ne!(catalog.revision, revision);
    assert!(started.elapsed() < Duration::from_secs(10));
    // Nothing changes: the same catalog comes when time is up.
    let again = store
        .client
        .wait_for_change(catalog.revision, Duration::from_millis(50))
        .await;
    assert_eq!(again.unwrap(), catalog);
    store.stop().await;
}

#[tokio::test]
async fn a_change_by_another_process_is_seen_at_the_next_rescan() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "rescan_ms = 100").await;
    let revision = store.client.catalog().await.unwrap().revision;
    let objects = dir.path().join("objects");
    let other = Repository::open(&objects, Limits::default()).await.unwrap();
    other.publish(None, bundle("f", "1")).await.unwrap();
    let catalog = store
        .client
        .wait_for_change(revision, Duration::from_secs(20))
        .await;
    assert_eq!(catalog.unwrap().entries.len(), 2);
    store.stop().await;
}

#[tokio::test]
async fn a_stopping_store_lets_waiting_clients_go() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    let revision = store.client.catalog().await.unwrap().revision;
    let client = store.client.clone();
    let waiter = tokio::spawn(async move {
        client
            .wait_for_change(revision, Duration::from_secs(30))
            .await
    });
    let metrics = format!("{}/metrics", store.base);
    let text = async || reqwest::get(&metrics).await.unwrap().text().await.unwrap();
    while !text().await.contains("store_catalog_waiters 1") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let started = std::time::Instant::now();
    store.stop().await;
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!(waiter.await.unwrap().unwrap().revision, revision);
}

#[tokio::test]
async fn a_refused_bundle_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let store = start(
        &dir,
        "[limits]\nbundle_bytes = 100000\nunpacked_bytes = 200000",
    )
    .await;
    let noise: String = (0..30_000)
        .map(|n: u32| format!("{:x}", n.wrapping_mul(2_654_435_761)))
        .collect();
    let zeros = "\0".repeat(300_000);
    for (bad, status, kind) in [
        (
            Bytes::from_static(b"no archive"),
            422,
            "bundle_not_an_archive",
        ),
        (archive(&[("f.py", "")]), 422, "bundle_no_manifest"),
        (
            archive(&[("warmpath.toml", "name = \"a\"")]),
            422,
            "bundle_no_entry",
        ),
        (
            archive(&[("warmpath.toml", "name = \"A\""), ("f.py", "")]),
            422,
            "bundle_manifest",
        ),
        (bundle("f", &noise), 413, "bundle_too_large"),
        (bundle("f", &zeros), 413, "bundle_unpacked_too_large"),
    ] {
        let body = refused(store.client.publish(None, bad).await);
        assert_eq!((body.status, body.kind.as_str()), (status, kind));
        assert_eq!((body.fault.as_str(), body.retryable), ("caller", false));
    }
    let body = refused(store.client.publish(Some("../x"), bundle("f", "")).await);
    assert_eq!(body.kind, "bad_name");
    assert_eq!(
        files(&dir.path().join("objects")),
        Vec::<std::path::PathBuf>::new()
    );
    assert_eq!(store.entries().await, []);
    store.stop().await;
}

#[tokio::test]
async fn every_error_is_json() {
    let dir = TempDir::new().unwrap();
    let store = start(&dir, "").await;
    let http = reqwest::Client::new();
    let url = |path: &str| format!("{}{path}", store.base);
    for (request, status, kind) in [
        (
            http.get(url("/v1/bundles/sha256:..%2f..%2fx")),
            400,
            "bad_digest",
        ),
        (
            http.get(url("/v1/functions/..%2f..%2fx")),
            404,
            "no_function",
        ),
        (http.get(url("/v1/catalog?after=x")), 400, "bad_query"),
        (http.post(url("/v1/functions?nam=x")), 400, "bad_query"),
        (
            http.put(url("/v1/functions/f/aliases/a")).body("x"),
            400,
            "bad_json",
        ),
        (http.get(url("/nowhere")), 404, "no_route"),
        (http.post(url("/v1/catalog")), 405, "no_method"),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{kind}");
        let body: ErrorBody = response.json().await.unwrap();
        assert_eq!((body.status, body.kind.as_str()), (status, kind));
    }
    store.stop().await;
}

#[tokio::test]
async fn a_busy_port_is_one_clear_line() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    let error = store::run(config(dir.path(), listen, ""), stopped)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        RunError::AddressInUse { key: "listen", .. }
    ));
    assert!(error.to_string().contains("in use") && !error.to_string().contains('\n'));
}
