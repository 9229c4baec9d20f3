//! Package layers in sandboxes: shared by functions, searched in order, read-only.

use std::sync::Arc;

use ebpf_common::wire::Status;
use serde_json::json;
use store::Digest;

use super::bed::{Bed, bundle, text};

const USES: &str = "\
import first, second
def f(event):
    return [first.NAME, second.NAME, first.__file__.rsplit('/', 1)[1]]
";

async fn put(bed: &Bed, files: &[(&str, &str)]) -> Digest {
    bed.store
        .put_layer(bundle(files).unwrap())
        .await
        .unwrap()
        .digest
}

fn layers_in_cache(bed: &Bed) -> usize {
    let entries = std::fs::read_dir(bed.dir.path().join("code")).unwrap();
    entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("layer-"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_share_layers_and_search_them_in_order() {
    let bed = Bed::start().await;
    let one = put(
        &bed,
        &[("first.py", "NAME = 'one'"), ("second.py", "NAME = 'one'")],
    )
    .await;
    let two = put(&bed, &[("second.py", "NAME = 'two'")]).await;
    for (name, order, second) in [("a", [&one, &two], "one"), ("b", [&two, &one], "two")] {
        let manifest = format!("layers = [\"{}\", \"{}\"]", order[0], order[1]);
        let function = bed.deploy(name, USES, &manifest).await;
        let reply = bed.reply(&function, json!(null)).await;
        assert_eq!(reply, json!(["one", second, "first.py"]));
    }
    assert_eq!(layers_in_cache(&bed), 2, "each is unpacked once");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_cannot_be_changed_from_inside() {
    let bed = Bed::start().await;
    let layer = put(&bed, &[("lib/__init__.py", ""), ("lib/data.txt", "data")]).await;
    let code = r#"
import os, lib
def f(event):
    place = os.path.dirname(lib.__file__)
    seen = [open(place + "/data.txt").read()]
    for attempt in (
        lambda: open(place + "/new", "w"),
        lambda: os.remove(place + "/data.txt"),
        lambda: os.mkdir("/layers/more"),
        lambda: os.chmod(place + "/data.txt", 0o777),
    ):
        try:
            attempt()
            seen.append("done")
        except OSError as error:
            seen.append(error.errno in (1, 13, 30))
    return seen
"#;
    let function = bed
        .deploy("changes", code, &format!("layers = [\"{layer}\"]"))
        .await;
    let reply = bed.reply(&function, json!(null)).await;
    assert_eq!(reply, json!(["data", true, true, true, true]));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_to_be_had_is_the_platforms_fault() {
    let bed = Bed::start().await;
    let layer = put(&bed, &[("first.py", "")]).await;
    let function = bed
        .deploy(
            "gone",
            "def f(event): return 1\n",
            &format!("layers = [\"{layer}\"]"),
        )
        .await;
    let mut absent = (*function).clone();
    absent.manifest.layers = vec![Digest::of(b"nobody stored this")];
    let outcome = bed.call(&Arc::new(absent), json!(null)).await;
    assert_eq!(
        outcome.status,
        Status::CodeUnavailable,
        "{}",
        text(&outcome)
    );
    assert!(text(&outcome).contains("layer"), "{}", text(&outcome));
    let other = bed
        .deploy(
            "there",
            "def f(event): return 1\n# other code\n",
            &format!("layers = [\"{layer}\"]"),
        )
        .await;
    assert_eq!(
        bed.reply(&other, json!(null)).await,
        json!(1),
        "the next request is served"
    );
    bed.stop().await;
}
