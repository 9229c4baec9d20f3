//! The code cache beside real sandboxes.

use ebpf_common::wire::Status;
use serde_json::json;

use super::bed::{Bed, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_cache_file_is_fetched_again() {
    let bed = Bed::start_with(|config| config.limits.idle_timeout_ms = 50).await;
    let function = bed
        .deploy("cached", "def f(event):\n    return 'right'\n", "")
        .await;
    assert_eq!(bed.reply(&function, json!(null)).await, json!("right"));
    // Not for its leaving the list of what is warm: it may not be there yet.
    super::zygotes::until("the instance to end", || {
        let snapshot = bed.pool.snapshot();
        snapshot.evictions == 1 && snapshot.memory_mb == 0
    })
    .await;
    let file = bed
        .dir
        .path()
        .join("code")
        .join(function.digest.hex())
        .join("f.py");
    std::fs::write(&file, "def f(event):\n    return 'wrong'\n").unwrap();
    let again = bed.call(&function, json!(null)).await;
    assert!(again.usage.cold);
    assert_eq!(super::bed::json(&again), json!("right"));
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "def f(event):\n    return 'right'\n"
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_is_not_to_be_had_is_the_platforms_fault() {
    let bed = Bed::start().await;
    let function = bed
        .deploy("gone", "def f(event):\n    return 1\n", "")
        .await;
    let mut absent = (*function).clone();
    absent.digest = store::Digest::of(b"nobody published this");
    let outcome = bed.call(&std::sync::Arc::new(absent), json!(null)).await;
    assert_eq!(
        outcome.status,
        Status::CodeUnavailable,
        "{}",
        text(&outcome)
    );
    let left: Vec<_> = std::fs::read_dir(bed.dir.path().join("code"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_that_leaves_nothing_broken() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let small = tempfile::Builder::new()
        .prefix(&format!("{}.", super::bed::run_name()))
        .tempdir()
        .unwrap();
    mount(
        Some("wp-full"),
        small.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=64k"),
    )
    .unwrap();
    let code = {
        let noise: Vec<u8> = (0..200_000_u32)
            .map(|n| b'a' + (n.wrapping_mul(n) >> 7) as u8 % 26)
            .collect();
        format!(
            "NOISE = '{}'\ndef f(event):\n    return 1\n",
            String::from_utf8(noise).unwrap()
        )
    };
    let bed = Bed::start().await;
    let function = bed.deploy("large", &code, "").await;
    let cache = worker::code::CodeCache::new(bed.store.clone(), small.path());
    let refused = cache.ensure(&function).await;
    assert!(refused.is_err());
    assert_eq!(
        std::fs::read_dir(small.path()).unwrap().count(),
        0,
        "nothing half-written"
    );
    umount2(small.path(), MntFlags::MNT_DETACH).unwrap();
    assert!(
        cache.ensure(&function).await.is_ok(),
        "with room again, it works"
    );
    bed.stop().await;
}
