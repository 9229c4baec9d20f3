//! Embeds the object with the generator and the sink, if it has been built; `object()` says at run time how to build it.

use std::{env, fs, path::PathBuf};

/// Where `cargo xtask build` leaves it, from this package.
const DEFAULT_OBJECT: &str = "../target/ebpf/bpfel-unknown-none/release/bench";

fn main() {
    println!("cargo::rerun-if-env-changed=WARMPATH_BENCH_OBJECT");
    let default = || {
        let here = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        PathBuf::from(here).join(DEFAULT_OBJECT)
    };
    let object = env::var_os("WARMPATH_BENCH_OBJECT").map_or_else(default, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bench.o");
    // An empty file stands for "not built".
    let bytes = fs::read(&object).unwrap_or_default();
    fs::write(&out, bytes).expect("OUT_DIR is writable");
}
