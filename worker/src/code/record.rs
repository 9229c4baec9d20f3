//! What a bundle's directory held when it was unpacked, and whether it still does.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Each file's path in the bundle, and the SHA-256 of its content.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    files: BTreeMap<PathBuf, String>,
}

/// How each file looked, without reading it, when it was last read and found right. A change of content
/// changes at least one of these, as long as nobody sets the clock back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(BTreeMap<PathBuf, Stamp>);

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Record {
    /// What `dir` holds now.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        walk(dir, Path::new(""), &mut |path, _| {
            files.insert(path.to_owned(), hash(&dir.join(path))?);
            Ok(())
        })?;
        Ok(Self { files })
    }

    /// Writes it beside `place`.
    pub(super) fn write(&self, place: &Path) -> io::Result<()> {
        let (path, unfinished) = (path_for(place), place.with_extension("json.new"));
        fs::write(&unfinished, serde_json::to_vec(self)?)?;
        fs::rename(unfinished, path)
    }

    fn read(place: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path_for(place))?)?)
    }
}

/// Whether `place` holds what it did when it was unpacked, cheaply if it looks as it did at `before`.
/// If so, how it looks; if not, why.
pub(super) fn verify(place: &Path, before: Option<Stamps>) -> Result<Stamps, String> {
    let now = stamps(place).map_err(|error| format!("cannot be read: {error}"))?;
    if before.is_some_and(|before| before == now) {
        return Ok(now);
    }
    let record = Record::read(place).map_err(|error| format!("has no record: {error}"))?;
    let found = Record::of(place).map_err(|error| format!("cannot be read: {error}"))?;
    if found != record {
        return Err("differs from what was unpacked".to_owned());
    }
    Ok(now)
}

fn path_for(place: &Path) -> PathBuf {
    place.with_extension("json")
}

fn stamps(dir: &Path) -> io::Result<Stamps> {
    let mut all = Stamps::default();
    walk(dir, Path::new(""), &mut |path, meta| {
        let stamp = Stamp {
            len: meta.len(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        };
        all.0.insert(path.to_owned(), stamp);
        Ok(())
    })?;
    Ok(all)
}

/// Visits every file below `root`, by its path from there. Bundles hold plain files and folders only, so
/// anything else is an error.
fn walk(
    root: &Path,
    below: &Path,
    visit: &mut impl FnMut(&Path, &fs::Metadata) -> io::Result<()>,
) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let meta = entry.metadata()?;
        if meta.is_dir() {
            walk(root, &path, visit)?;
        } else if meta.is_file() {
            visit(&path, &meta)?;
        } else {
            let message = format!("{} is neither file nor folder", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
    }
    Ok(())
}

fn hash(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut HashWriter(&mut hasher))?;
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// sha2 without its `std` feature has no `io::Write`.
struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("code");
        fs::create_dir_all(place.join("lib")).unwrap();
        fs::write(place.join("f.py"), "def f(event): return 1\n").unwrap();
        fs::write(place.join("lib/x.py"), "").unwrap();
        Record::of(&place).unwrap().write(&place).unwrap();
        (dir, place)
    }

    #[test]
    fn finds_an_unharmed_bundle_unharmed() {
        let (_dir, place) = bundle();
        let stamps = verify(&place, None).unwrap();
        assert!(verify(&place, Some(stamps)).is_ok());
    }

    #[test]
    fn notices_changed_added_and_missing_files() {
        let (_dir, place) = bundle();
        let stamps = verify(&place, None).unwrap();
        // The same length, and soon after: the times still tell.
        fs::write(place.join("f.py"), "def f(event): return 2\n").unwrap();
        assert!(verify(&place, Some(stamps)).is_err());
        fs::write(place.join("f.py"), "def f(event): return 1\n").unwrap();
        let stamps = verify(&place, None).unwrap();
        fs::write(place.join("lib/y.py"), "").unwrap();
        assert!(verify(&place, Some(stamps)).is_err());
        fs::remove_file(place.join("lib/y.py")).unwrap();
        fs::remove_file(place.join("lib/x.py")).unwrap();
        assert!(verify(&place, None).is_err());
    }

    #[test]
    fn trusts_nothing_without_a_record() {
        let (_dir, place) = bundle();
        fs::write(path_for(&place), "{}").unwrap();
        assert!(verify(&place, None).is_err());
        fs::remove_file(path_for(&place)).unwrap();
        assert!(verify(&place, None).is_err());
        assert!(verify(&place.join("absent"), None).is_err());
    }
}
