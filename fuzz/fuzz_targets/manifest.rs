//! Manifests, as they stand in bundles: refused with a reason, or accepted and written again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store::Manifest;

fuzz_target!(|data: &[u8]| match Manifest::parse(data) {
    Ok(manifest) => {
        let again = toml::to_string(&manifest).expect("it was read");
        assert_eq!(Manifest::parse(again.as_bytes()).ok(), Some(manifest));
    }
    Err(error) => assert!(!error.to_string().is_empty()),
});
