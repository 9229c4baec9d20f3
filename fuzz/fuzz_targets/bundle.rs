//! Bundles and layers as the store takes them: any bytes, or any archive behind a good compression, also with good checksums. One that is in order
//! unpacks, to no more than it may, and to nothing beside its folder.
#![no_main]

use std::{fs, io::Write as _, path::Path};

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use store::unpack::{Limits, check, check_layer, unpack_layer};

const LIMITS: Limits = Limits {
    bundle_bytes: 64 << 10,
    unpacked_bytes: 16 << 10,
    files: 8,
};

fuzz_target!(|data: &[u8]| {
    let [choice, rest @ ..] = data else {
        return;
    };
    let archive = match choice & 3 {
        0 => rest.to_vec(),
        1 => compressed(rest),
        _ => compressed(&with_checksums(rest)),
    };
    if let Ok(bundle) = check(&archive, &LIMITS) {
        assert!(bundle.files <= LIMITS.files && bundle.bytes <= LIMITS.unpacked_bytes);
        assert!(check_layer(&archive, &LIMITS).is_ok());
    }
    let Ok(layer) = check_layer(&archive, &LIMITS) else {
        return;
    };
    assert!(layer.files <= LIMITS.files && layer.bytes <= LIMITS.unpacked_bytes);
    // Disks are slow: not every one of them.
    if layer.files > 0 && choice & 4 == 0 {
        let around = tempfile::tempdir().expect("there is a folder for temporary files");
        let inside = around.path().join("a/b");
        let unpacked = unpack_layer(&archive, &inside, &LIMITS).expect("it was in order");
        assert_eq!(unpacked, layer);
        assert_eq!(names(around.path()), ["a"]);
        assert_eq!(names(&around.path().join("a")), ["b"]);
    }
});

/// gzip without any packing, so that a byte of `archive` is a byte of the input.
fn compressed(archive: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    gzip.write_all(archive).expect("into memory");
    gzip.finish().expect("into memory")
}

/// `archive` with the checksums of its members' headers set right: what is behind one is met only if that is.
fn with_checksums(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    let mut at = 0;
    while let Some(header) = archive
        .get_mut(at..)
        .and_then(<[u8]>::first_chunk_mut::<512>)
    {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let digits = header[124..136].iter().filter(|byte| byte.is_ascii_digit());
        let size = digits.fold(0_usize, |size, digit| size * 8 + usize::from(digit - b'0'));
        at += 512 + size.next_multiple_of(512);
    }
    archive
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is there");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("it is there").file_name();
    entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect()
}
