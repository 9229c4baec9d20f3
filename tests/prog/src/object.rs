//! Where the eBPF object under test is.

use std::{env, fs, path::PathBuf, sync::OnceLock};

/// Names another object than the one that `cargo xtask build` made.
pub const OBJECT_VARIABLE: &str = "WARMPATH_EBPF_OBJECT";
/// Where `cargo xtask build` leaves it, from this package.
const DEFAULT_OBJECT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../target/ebpf/bpfel-unknown-none/release/balancer"
);

/// The bytes of the eBPF object, read once.
///
/// # Panics
/// If it has not been built; the message says how to.
#[must_use]
pub fn object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let path =
            env::var_os(OBJECT_VARIABLE).map_or_else(|| DEFAULT_OBJECT.into(), PathBuf::from);
        fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "cannot read {}: {error}; `cargo xtask build --ebpf-only` makes it",
                path.display()
            )
        })
    })
}
