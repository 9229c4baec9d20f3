//! Environment and secrets by manifest: who gets them, who does not, and what becomes of a change.

use std::{os::unix::fs::PermissionsExt, path::Path};

use ebpf_common::wire::{Fault, Status};
use serde_json::json;
use worker::log::Wanted;

use super::bed::{Bed, json as reply_of, text};

/// Gives what it finds in its environment.
const SHOWS: &str = "
import os, subprocess
at_load = os.environ.get('KEY')
def f(event):
    child = subprocess.run(['/usr/bin/python3', '-c', 'import os; print(os.environ.get(\"KEY\"))'],
                           capture_output=True, text=True)
    return [at_load, os.environ.get('KEY'), child.stdout.strip(), os.environ.get('MODE')]
";
const MANIFEST: &str = "timeout_ms = 60000\nsecrets = { KEY = \"key\" }\n[env]\nMODE = \"fast\"";

async fn bed() -> Bed {
    Bed::start_with(|config| config.secrets.dir = config.state_dir.join("secrets")).await
}

fn put(bed: &Bed, tenant: &str, value: &str, mode: u32) {
    let dir = bed.config.secrets.dir.join(tenant);
    std::fs::create_dir_all(&dir).unwrap();
    let (new, path) = (dir.join("new"), dir.join("key"));
    std::fs::write(&new, value).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::rename(&new, &path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_finds_them_before_it_is_loaded_and_so_do_its_children() {
    let bed = bed().await;
    put(&bed, "default", "s3cret\n", 0o600);
    let function = bed.deploy("shows", SHOWS, MANIFEST).await;
    let found = bed.reply(&function, json!(null)).await;
    assert_eq!(found, json!(["s3cret", "s3cret", "s3cret", "fast"]));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_missing_or_exposed_is_the_functions_fault_and_others_are_served() {
    let bed = bed().await;
    let function = bed.deploy("shows", SHOWS, MANIFEST).await;
    let other = bed
        .deploy("other", "def f(event):\n    return 1\n", "")
        .await;
    for mode in [None, Some(0o644)] {
        if let Some(mode) = mode {
            put(&bed, "default", "s3cret", mode);
        }
        let refused = bed.call(&function, json!(null)).await;
        assert_eq!(refused.status, Status::Exception);
        assert_eq!(refused.status.fault(), Fault::Function);
        assert!(!refused.status.is_retryable());
        let said = text(&refused);
        assert!(said.contains("`key` of tenant `default`"), "{said}");
        assert!(!said.contains("s3cret") && !said.contains('/'), "{said}");
        assert_eq!(bed.reply(&other, json!(null)).await, json!(1));
    }
    assert_eq!(bed.pool.snapshot().secret_failures, 2);
    put(&bed, "default", "s3cret", 0o600);
    assert_eq!(bed.reply(&function, json!(null)).await[0], "s3cret");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_one_reaches_the_next_request() {
    let bed = bed().await;
    put(&bed, "default", "old", 0o600);
    let function = bed.deploy("shows", SHOWS, MANIFEST).await;
    let first = bed.call(&function, json!(null)).await;
    assert_eq!(reply_of(&first)[0], "old");
    let same = bed.call(&function, json!(null)).await;
    assert_eq!(
        same.usage.instance, first.usage.instance,
        "unchanged: the same instance"
    );
    put(&bed, "default", "new", 0o600);
    let changed = bed.call(&function, json!(null)).await;
    assert_eq!(reply_of(&changed)[0], "new");
    assert_ne!(changed.usage.instance, first.usage.instance);
    std::fs::remove_file(bed.config.secrets.dir.join("default/key")).unwrap();
    let gone = bed.call(&function, json!(null)).await;
    assert_eq!(gone.status, Status::Exception, "{}", text(&gone));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_get_their_own_and_share_no_instance() {
    let bed = bed().await;
    put(&bed, "acme", "of acme", 0o600);
    put(&bed, "other", "of other", 0o600);
    let mut instances = Vec::new();
    for tenant in ["acme", "other"] {
        let manifest = format!("tenant = {tenant:?}\n{MANIFEST}");
        let function = bed.deploy(&format!("of-{tenant}"), SHOWS, &manifest).await;
        let outcome = bed.call(&function, json!(null)).await;
        assert_eq!(reply_of(&outcome)[0], format!("of {tenant}"));
        instances.push(outcome.usage.instance);
    }
    assert_ne!(instances[0], instances[1]);
    // One without secrets, of either tenant, has nothing of them.
    let bare = bed.deploy("bare", SHOWS, "tenant = \"acme\"").await;
    let found = bed.reply(&bare, json!(null)).await;
    assert_eq!(found, json!([null, null, "None", null]));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_worker_store_or_sandbox_has_a_value() {
    let bed = bed().await;
    let value = format!("s3cret-{}", std::process::id());
    put(&bed, "default", &value, 0o600);
    let function = bed.deploy("shows", SHOWS, MANIFEST).await;
    assert_eq!(bed.reply(&function, json!(null)).await[0], json!(value));
    let mut found = Vec::new();
    files_with(bed.dir.path(), &value, &mut found);
    let only = bed.config.secrets.dir.join("default/key");
    assert_eq!(found, [only], "the search finds the one that is");
    let catalog = serde_json::to_string(&*function).unwrap();
    assert!(catalog.contains("\"key\"") && !catalog.contains(&value));
    bed.stop().await;
}

fn files_with(dir: &Path, text: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_with(&path, text, found);
        } else if std::fs::read(&path).is_ok_and(|bytes| {
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        }) {
            found.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_printed_is_not_kept() {
    let bed = bed().await;
    put(&bed, "default", "s3cret\n", 0o600);
    let code = "import os\ndef f(event):\n    print('key', os.environ['KEY'])\n";
    let function = bed.deploy("leaks", code, MANIFEST).await;
    bed.reply(&function, json!(null)).await;
    let wanted = Wanted {
        function: "leaks".to_owned(),
        ..Wanted::default()
    };
    let entries = bed.pool.logs().read(&wanted).entries;
    assert_eq!(entries[0].text, "key [hidden]\n");
    bed.stop().await;
}
