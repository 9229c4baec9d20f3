//! Embeds the eBPF object, if it has been built, so that the one binary carries its own data plane.
//!
//! `cargo build` must work without the eBPF tool chain, so a missing object is not an error here:
//! `object()` then says at run time how to build it.

use std::{env, fs, path::PathBuf};

/// Where `cargo xtask build` leaves the object, under the workspace root.
const DEFAULT_OBJECT: &str = "target/ebpf/bpfel-unknown-none/release/balancer";

fn main() {
    println!("cargo::rerun-if-env-changed=WARMPATH_EBPF_OBJECT");
    let object = env::var_os("WARMPATH_EBPF_OBJECT").map_or_else(default_object, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());

    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let embedded = out_dir.join("balancer.o");
    // An empty file stands for "not built"; `src/object.rs` tells the two apart by length.
    let bytes = fs::read(&object).unwrap_or_default();
    fs::write(&embedded, bytes).expect("OUT_DIR is writable");
}

fn default_object() -> PathBuf {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    PathBuf::from(manifest_dir).join("..").join(DEFAULT_OBJECT)
}
