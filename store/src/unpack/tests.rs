//! Bundles that are in order, and every way in which one is refused.

use std::{io::Write, os::unix::fs::MetadataExt};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;

const MANIFEST: &str = "name = \"hello\"";

/// An archive under construction.
struct Archive(Builder<Vec<u8>>);

impl Archive {
    /// With manifest and entry file.
    fn whole() -> Self {
        let archive = Self(Builder::new(Vec::new()));
        archive
            .file("warmpath.toml", MANIFEST.as_bytes())
            .file("f.py", b"def f(event): return event")
    }

    fn empty() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.member(path.as_bytes(), EntryType::Regular, content, |_| {})
    }

    fn folder(self, path: &str) -> Self {
        self.member(path.as_bytes(), EntryType::Directory, b"", |_| {})
    }

    /// A member with its path as it is: the builder's own setters refuse what we want to test.
    fn member(
        mut self,
        path: &[u8],
        kind: EntryType,
        content: &[u8],
        change: impl Fn(&mut Header),
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_mode(0o6777);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn link(self, path: &str, kind: EntryType, target: &str) -> Self {
        self.member(path.as_bytes(), kind, b"", |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    fn bytes(self) -> Vec<u8> {
        gzip(&self.0.into_inner().unwrap())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The refusal of `bundle`, after proof that refusing wrote nothing.
fn refusal_under(bundle: &[u8], limits: &Limits) -> UnpackError {
    let dir = TempDir::new().unwrap();
    let outer = dir.path().join("outer");
    let error = unpack(bundle, &outer.join("inner"), limits).unwrap_err();
    assert!(!outer.exists(), "a refused bundle left something behind");
    assert_eq!(check(bundle, limits).unwrap_err().kind(), error.kind());
    // However long what it quotes is. An unknown key is answered with all that there are.
    assert!(error.to_string().len() < 600, "{error}");
    error
}

fn refusal(bundle: &[u8]) -> UnpackError {
    refusal_under(bundle, &Limits::default())
}

#[test]
fn the_entry_of_a_native_function_can_be_executed_and_nothing_else() {
    let manifest = b"name = 'f'\nruntime = 'native'\nentry = 'bin/f'";
    let bundle = Archive::empty()
        .file("warmpath.toml", manifest)
        .file("bin/f", b"#!/bin/sh")
        .file("bin/other", b"#!/bin/sh")
        .bytes();
    let dir = TempDir::new().unwrap();
    let place = dir.path().join("new");
    unpack(&bundle, &place, &Limits::default()).unwrap();
    let mode = |path: &str| fs::metadata(place.join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("bin/f"), mode("bin/other")), (0o755, 0o644));
}

#[test]
fn a_bundle_is_unpacked_with_plain_modes() {
    let bundle = Archive::whole()
        .folder("lib")
        .file("lib/deep/er/x.py", b"x")
        .file("empty", b"")
        .bytes();
    let dir = TempDir::new().unwrap();
    let place = dir.path().join("new");
    let unpacked = unpack(&bundle, &place, &Limits::default()).unwrap();
    assert_eq!((unpacked.files, unpacked.bytes), (5, 14 + 26 + 1));
    assert_eq!(unpacked.manifest.name, "hello");
    assert_eq!(fs::read(place.join("lib/deep/er/x.py")).unwrap(), b"x");
    let mode = |path: &str| fs::metadata(place.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("f.py"), 0o644);
    assert_eq!(mode("lib"), 0o755);
    assert_eq!(mode("lib/deep/er"), 0o755);
}

#[test]
fn the_archive_that_tar_makes_of_a_folder_is_taken() {
    let bundle = Archive::empty()
        .folder("./")
        .file("./warmpath.toml", MANIFEST.as_bytes())
        .folder("./lib/")
        .file("./f.py", b"")
        .bytes();
    assert_eq!(check(&bundle, &Limits::default()).unwrap().files, 3);
}

#[test]
fn long_names_and_pax_records_are_understood() {
    let long = format!("{}/{}.py", "d".repeat(120), "n".repeat(120));
    let mut archive = Archive::whole().member(
        b"pax_global_header",
        EntryType::XGlobalHeader,
        b"20 comment=12345678\n",
        |_| {},
    );
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    archive
        .0
        .append_data(&mut header, &long, &b"x"[..])
        .unwrap();
    let dir = TempDir::new().unwrap();
    unpack(&archive.bytes(), dir.path(), &Limits::default()).unwrap();
    assert_eq!(fs::read(dir.path().join(long)).unwrap(), b"x");
}

#[test]
fn a_folder_that_is_not_empty_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("f.py"), "mine").unwrap();
    let error = unpack(&Archive::whole().bytes(), dir.path(), &Limits::default()).unwrap_err();
    assert!(matches!(error, UnpackError::NotEmpty { .. }));
    assert_eq!(fs::read(dir.path().join("f.py")).unwrap(), b"mine");
}

#[test]
fn paths_that_leave_the_bundle_are_refused() {
    for path in ["../x", "a/../../x", "a/..", "..", "./../x"] {
        let error = refusal(&Archive::whole().file(path, b"x").bytes());
        assert!(matches!(error, UnpackError::ParentPath { .. }), "{path}");
        let error = refusal(&Archive::whole().folder(path).bytes());
        assert!(matches!(error, UnpackError::ParentPath { .. }), "{path}");
    }
    for path in ["/etc/passwd", "//x", "/"] {
        let error = refusal(&Archive::whole().file(path, b"x").bytes());
        assert!(matches!(error, UnpackError::AbsolutePath { .. }), "{path}");
    }
}

#[test]
fn a_pax_record_cannot_smuggle_a_path_in() {
    let record = b"22 path=../../etc/pas\n";
    let bundle = Archive::whole()
        .member(b"x", EntryType::XHeader, record, |_| {})
        .file("harmless", b"x")
        .bytes();
    assert!(matches!(refusal(&bundle), UnpackError::ParentPath { .. }));
}

#[test]
fn a_pax_record_cannot_hide_members_behind_another_size() {
    let bundle = Archive::whole()
        .member(b"x", EntryType::XHeader, b"10 size=0\n", |_| {})
        .file("cover", &[0; 1_024])
        .bytes();
    assert!(matches!(
        refusal(&bundle),
        UnpackError::UnsupportedMember { .. }
    ));
}

#[test]
fn paths_that_are_empty_too_long_too_deep_or_not_text_are_refused() {
    let deep = "d/".repeat(40) + "x";
    let long = {
        let mut archive = Archive::whole();
        let mut header = Header::new_gnu();
        header.set_size(0);
        let path = format!("{}/x", (["n".repeat(200).as_str()].repeat(6)).join("/"));
        archive.0.append_data(&mut header, path, &b""[..]).unwrap();
        archive.bytes()
    };
    let huge_name = Archive::whole()
        .member(b"x", EntryType::GNULongName, &[b'n'; 100_000], |_| {})
        .file("x", b"");
    for bundle in [
        Archive::whole().file("", b"").bytes(),
        Archive::whole().file(".", b"").bytes(),
        Archive::whole().file(&deep, b"").bytes(),
        Archive::whole()
            .member(b"\xff\xfe", EntryType::Regular, b"", |_| {})
            .bytes(),
        long,
        huge_name.bytes(),
    ] {
        let error = refusal(&bundle);
        assert!(matches!(error, UnpackError::BadPath { .. }), "{error}");
    }
}

#[test]
fn links_are_refused_wherever_they_point() {
    for target in ["/etc/passwd", "../x", "f.py"] {
        let symlink = Archive::whole().link("l", EntryType::Symlink, target);
        assert!(matches!(
            refusal(&symlink.bytes()),
            UnpackError::Symlink { .. }
        ));
        let hard = Archive::whole().link("l", EntryType::Link, target);
        assert!(matches!(
            refusal(&hard.bytes()),
            UnpackError::HardLink { .. }
        ));
    }
    // The classic: a link to a folder, then a file through it.
    let through = Archive::whole()
        .link("lib", EntryType::Symlink, "/tmp")
        .file("lib/x", b"x");
    assert!(matches!(
        refusal(&through.bytes()),
        UnpackError::Symlink { .. }
    ));
}

#[test]
fn devices_pipes_and_unknown_kinds_are_refused() {
    let kind = |kind| refusal(&Archive::whole().member(b"d", kind, b"", |_| {}).bytes());
    assert!(matches!(kind(EntryType::Char), UnpackError::Device { .. }));
    assert!(matches!(kind(EntryType::Block), UnpackError::Device { .. }));
    assert!(matches!(kind(EntryType::Fifo), UnpackError::Fifo { .. }));
    for other in [
        EntryType::GNUSparse,
        EntryType::new(b'S'),
        EntryType::new(b'?'),
    ] {
        assert!(matches!(kind(other), UnpackError::UnsupportedMember { .. }));
    }
}

#[test]
fn two_members_with_one_path_are_refused() {
    for bundle in [
        Archive::whole().file("f.py", b"other"),
        Archive::whole().file("./f.py", b"other"),
        Archive::whole().folder("d").folder("d/"),
        Archive::whole().file("a", b"").file("a/b", b""),
        Archive::whole().file("a/b", b"").file("a", b""),
        Archive::whole().folder("a").file("a", b""),
    ] {
        let error = refusal(&bundle.bytes());
        assert!(
            matches!(error, UnpackError::DuplicatePath { .. }),
            "{error}"
        );
    }
    // The other order is how folders that were implied get a member of their own.
    let late = Archive::whole().file("d/x", b"").folder("d").bytes();
    assert!(check(&late, &Limits::default()).is_ok());
}

#[test]
fn a_bundle_beyond_a_limit_is_refused() {
    let bundle = Archive::whole().file("x", &[7; 5_000]).bytes();
    let within = Limits {
        bundle_bytes: bundle.len() as u64,
        unpacked_bytes: 5_000 + 14 + 26,
        files: 3,
    };
    assert!(check(&bundle, &within).is_ok());
    let limits = Limits {
        bundle_bytes: within.bundle_bytes - 1,
        ..within
    };
    let error = refusal_under(&bundle, &limits);
    assert!(matches!(error, UnpackError::BundleTooLarge { .. }));
    let limits = Limits {
        unpacked_bytes: within.unpacked_bytes - 1,
        ..within
    };
    let error = refusal_under(&bundle, &limits);
    assert!(matches!(error, UnpackError::UnpackedTooLarge { .. }));
    let limits = Limits { files: 2, ..within };
    let error = refusal_under(&bundle, &limits);
    assert!(matches!(error, UnpackError::TooManyFiles { .. }));
}

#[test]
fn a_bomb_is_refused_before_it_is_unpacked() {
    // 48 MiB of zeros in under 1 MiB, in one file, or as padding behind the end of the archive.
    let limits = Limits {
        unpacked_bytes: 4 << 20,
        ..Limits::default()
    };
    let zeros = vec![0; 48 << 20];
    let as_file = Archive::whole().file("zeros", &zeros).bytes();
    assert!(as_file.len() < 1 << 20);
    let error = refusal_under(&as_file, &limits);
    assert!(
        matches!(error, UnpackError::UnpackedTooLarge { .. }),
        "{error}"
    );
    let mut behind = Archive::whole().0.into_inner().unwrap();
    behind.extend(zeros);
    let error = refusal_under(&gzip(&behind), &limits);
    assert!(
        matches!(error, UnpackError::UnpackedTooLarge { .. }),
        "{error}"
    );
}

#[test]
fn many_members_are_refused_at_the_limit() {
    let limits = Limits {
        files: 50,
        ..Limits::default()
    };
    let bundle = (0..60).fold(Archive::whole(), |archive, n| {
        archive.file(&n.to_string(), b"")
    });
    let error = refusal_under(&bundle.bytes(), &limits);
    assert!(matches!(error, UnpackError::TooManyFiles { max: 50 }));
}

#[test]
fn what_is_no_whole_archive_is_refused() {
    let whole = Archive::whole().file("x", &[3; 2_000]).bytes();
    let step = whole.len() / 40 + 1;
    for length in (0..whole.len()).step_by(step) {
        let error = refusal(&whole[..length]);
        assert!(
            matches!(error, UnpackError::NotAnArchive(_)),
            "{length}: {error}"
        );
    }
    let mut flipped = whole.clone();
    let checksum = flipped.len() - 6;
    flipped[checksum] ^= 1;
    assert!(matches!(refusal(&flipped), UnpackError::NotAnArchive(_)));
    let mut followed = whole;
    followed.extend(b"and more");
    assert!(matches!(refusal(&followed), UnpackError::NotAnArchive(_)));
    assert!(matches!(
        refusal(b"PK\x03\x04"),
        UnpackError::NotAnArchive(_)
    ));
    assert!(matches!(
        refusal(&gzip(b"no tar")),
        UnpackError::NotAnArchive(_)
    ));
}

#[test]
fn a_bundle_without_manifest_or_entry_is_refused() {
    let none = Archive::empty().file("f.py", b"").bytes();
    assert!(matches!(refusal(&none), UnpackError::NoManifest));
    assert!(matches!(
        refusal(&gzip(&[0; 1024])),
        UnpackError::NoManifest
    ));
    let elsewhere = Archive::empty().file("a/warmpath.toml", b"").bytes();
    assert!(matches!(refusal(&elsewhere), UnpackError::NoManifest));
    let bad = Archive::empty().file("warmpath.toml", b"nam = 1").bytes();
    assert!(matches!(refusal(&bad), UnpackError::Manifest(_)));
    let large = Archive::empty()
        .file("warmpath.toml", &[b'#'; 70_000])
        .bytes();
    assert!(matches!(
        refusal(&large),
        UnpackError::ManifestTooLarge { .. }
    ));
    let archive = || Archive::empty().file("warmpath.toml", MANIFEST.as_bytes());
    let no_entry = archive().bytes();
    assert!(matches!(refusal(&no_entry), UnpackError::NoEntry { .. }));
    let folder = archive().folder("f.py").bytes();
    assert!(matches!(refusal(&folder), UnpackError::NoEntry { .. }));
}
