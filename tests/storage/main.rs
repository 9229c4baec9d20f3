//! Full disks, for real: database and store on a small tmpfs that is filled to the last byte.
//!
//! Needs root, to mount. Each test mounts in a mount namespace of its own thread, so that nothing stays
//! behind, whatever happens to the process.
#![expect(
    clippy::unwrap_used,
    reason = "a failed helper should panic where it stands"
)]

mod full_database;
mod full_store;

use std::path::{Path, PathBuf};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// A file that can be removed to make room again.
const BALLAST: &str = "ballast";

/// Runs `body` with a folder on an empty tmpfs of `size_mb`, of which `ballast_mb` are taken at first.
/// Threads that `body` starts share its view of the file system.
fn on_a_small_disk(size_mb: u64, ballast_mb: u64, body: impl FnOnce(&Path) + Send + 'static) {
    let place = tempfile::tempdir().unwrap();
    let path: PathBuf = place.path().to_owned();
    let outcome = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        let options = format!("size={size_mb}m");
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mounting needs root");
        let ballast = vec![0u8; usize::try_from(ballast_mb << 20).unwrap()];
        std::fs::write(path.join(BALLAST), ballast).unwrap();
        body(&path);
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Makes room.
fn drop_ballast(disk: &Path) {
    std::fs::remove_file(disk.join(BALLAST)).unwrap();
}

/// Bytes that do not compress, different for each `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(8) as u64)
        .map(|word| ebpf_common::hash::mix64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word));
    words.flat_map(u64::to_be_bytes).take(length).collect()
}
