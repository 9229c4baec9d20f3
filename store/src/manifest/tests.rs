//! What manifests say, and what is refused.

use super::*;

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text.as_bytes())
}

#[test]
fn a_name_is_all_a_manifest_needs() {
    let manifest = parse("name = \"hello\"").unwrap();
    assert_eq!(manifest.entry, "f.py");
    assert_eq!(manifest.runtime, Runtime::Python3);
    assert_eq!(manifest.affinity, AffinityKind::None);
    assert_eq!(manifest.payload, PayloadKind::Json);
    assert_eq!((manifest.timeout_ms, manifest.memory_mb), (3_000, 128));
    assert_eq!((manifest.pids, manifest.cpu_percent), (32, 100));
    assert_eq!((manifest.tmp_mb, manifest.concurrency), (16, 1));
    assert_eq!((manifest.min_warm, manifest.max_instances), (0, None));
}

#[test]
fn every_key_can_be_set() {
    let manifest = parse(
        "name = \"k\"\nruntime = \"python3\"\nentry = \"src/app.py\"\naffinity = \"shard\"\n\
         timeout_ms = 10\nmemory_mb = 64\npids = 8\ncpu_percent = 50\ntmp_mb = 1\n\
         payload = \"bytes\"\nconcurrency = 8\nmin_warm = 2\nmax_instances = 5\n",
    )
    .unwrap();
    assert_eq!(manifest.affinity, AffinityKind::Shard);
    assert_eq!(manifest.payload, PayloadKind::Bytes);
    assert_eq!(manifest.entry, "src/app.py");
    assert_eq!(manifest.concurrency, 8);
    assert_eq!((manifest.min_warm, manifest.max_instances), (2, Some(5)));
}

#[test]
fn an_unknown_key_is_named_in_the_refusal() {
    let error = parse("name = \"a\"\nmemory = 128").unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
}

#[test]
fn a_number_out_of_range_is_refused_with_key_and_range() {
    for (key, max) in [
        ("timeout_ms", "900000"),
        ("memory_mb", "10240"),
        ("pids", "4096"),
        ("cpu_percent", "6400"),
        ("tmp_mb", "4096"),
        ("concurrency", "256"),
    ] {
        for value in ["0", "999999999"] {
            let error = parse(&format!("name = \"a\"\n{key} = {value}")).unwrap_err();
            assert!(matches!(error, ManifestError::OutOfRange { .. }));
            let text = error.to_string();
            assert!(text.contains(key) && text.contains(max), "{text}");
        }
    }
}

#[test]
fn how_calls_are_tried_is_said_within_ranges_or_left_to_the_worker() {
    let said = parse("name = \"a\"\n[async]\nattempts = 5\nkeep_ms = 1000").unwrap();
    let retries = said.retries;
    assert_eq!(
        (retries.attempts, retries.backoff_ms, retries.keep_ms),
        (Some(5), None, Some(1_000))
    );
    assert!(parse("name = \"a\"").unwrap().retries.is_none());
    for line in [
        "attempts = 0",
        "attempts = 1001",
        "backoff_ms = 0",
        "keep_ms = 999",
    ] {
        let error = parse(&format!("name = \"a\"\n[async]\n{line}")).unwrap_err();
        let key = format!("async.{}", line.split(' ').next().unwrap());
        assert!(error.to_string().contains(&key), "{error}");
    }
    assert!(
        parse("name = \"a\"\n[async]\nat_once = 1").is_err(),
        "the worker's alone"
    );
}

#[test]
fn none_kept_warm_is_allowed_and_none_at_most_is_not() {
    assert!(parse("name = \"a\"\nmin_warm = 0").is_ok());
    for line in [
        "min_warm = 1025",
        "max_instances = 0",
        "max_instances = 5000",
    ] {
        let error = parse(&format!("name = \"a\"\n{line}")).unwrap_err();
        assert!(matches!(error, ManifestError::OutOfRange { .. }), "{line}");
    }
}

#[test]
fn a_name_that_could_not_be_a_path_or_host_is_refused() {
    for bad in [
        "",
        "-a",
        "A",
        "a_b",
        "a/b",
        "..",
        "a@b",
        "ä",
        &"a".repeat(64),
    ] {
        let error = parse(&format!("name = \"{bad}\"")).unwrap_err();
        assert!(matches!(error, ManifestError::Name { .. }), "{bad}");
    }
    for good in ["a", "0", "a-b-3", &"a".repeat(63)] {
        assert!(check_name(good).is_ok(), "{good}");
    }
}

#[test]
fn layers_are_digests_and_no_two_are_the_same() {
    let of = |number: usize| format!("\"{}\"", Digest::of(number.to_string().as_bytes()));
    let with = |layers: &[String]| parse(&format!("name = \"a\"\nlayers = [{}]", layers.join(",")));
    assert_eq!(with(&[of(1), of(2)]).unwrap().layers.len(), 2);
    let twice = with(&[of(1), of(2), of(1)]).unwrap_err();
    assert!(matches!(twice, ManifestError::DuplicateLayer { .. }));
    let many: Vec<String> = (0..=LAYERS_MAX).map(of).collect();
    assert!(matches!(
        with(&many).unwrap_err(),
        ManifestError::TooManyLayers { given: 65 }
    ));
    let error = with(&["\"numpy\"".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("no digest"), "{error}");
}

#[test]
fn an_entry_outside_the_bundle_is_refused() {
    for bad in ["", "/f.py", "../f.py", "a/../f.py", "./f.py"] {
        let error = parse(&format!("name = \"a\"\nentry = \"{bad}\"")).unwrap_err();
        assert!(matches!(error, ManifestError::Entry { .. }), "{bad}");
    }
}

#[test]
fn an_event_takes_post_and_the_others_every_method_unless_they_say() {
    let event = parse("name = \"a\"").unwrap();
    assert!(event.takes("POST") && !event.takes("GET") && !event.takes("HEAD"));
    assert_eq!(event.allow(), "POST");
    let wsgi = parse("name = \"a\"\ninterface = \"wsgi\"\napp = \"my_app\"").unwrap();
    assert_eq!(
        (wsgi.app.as_str(), wsgi.allow()),
        ("my_app", METHODS.join(", "))
    );
    assert!(!wsgi.takes("TRACE"));
    let said = parse("name = \"a\"\nmethods = [\"GET\", \"PUT\"]").unwrap();
    assert_eq!(said.allow(), "GET, HEAD, PUT");
    assert!(!said.takes("POST"));
}

#[test]
fn methods_and_applications_that_are_none_are_refused() {
    for bad in [
        "[]",
        "[\"get\"]",
        "[\"GET\", \"GET\"]",
        "[\"BREW\"]",
        "[\"\"]",
    ] {
        let error = parse(&format!("name = \"a\"\nmethods = {bad}")).unwrap_err();
        assert!(
            matches!(error, ManifestError::Method { .. }),
            "{bad}: {error}"
        );
    }
    for bad in ["", "1a", "a.b", "a:b", "ä", &"a".repeat(64)] {
        let error = parse(&format!("name = \"a\"\napp = \"{bad}\"")).unwrap_err();
        assert!(matches!(error, ManifestError::App { .. }), "{bad}: {error}");
    }
    assert!(parse("name = \"a\"\ninterface = \"cgi\"").is_err());
}

#[test]
fn what_a_runtime_cannot_load_is_refused() {
    let of = |more: &str| parse(&format!("name = \"a\"\n{more}"));
    for good in [
        "runtime = \"node\"\nentry = \"f.mjs\"",
        "runtime = \"native\"\nentry = \"bin/f\"\ninterface = \"http\"",
    ] {
        assert!(of(good).is_ok(), "{good}");
    }
    assert!(matches!(
        of("runtime = \"node\""),
        Err(ManifestError::EntryKind { .. })
    ));
    let wsgi = "runtime = \"native\"\nentry = \"f\"\ninterface = \"wsgi\"";
    assert_eq!(of(wsgi), Err(ManifestError::Interface));
    assert!(of("runtime = \"ruby\"").is_err());
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    assert_eq!(Manifest::parse(&[0xff]), Err(ManifestError::Encoding));
}
