//! Folders as gzip-compressed tar archives, as the store takes them. The same files always give the same bytes,
//! so that nothing is stored twice: names are sorted, owner and times are zero, modes are 0644 or 0755.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

/// Why a folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A link, a device, a pipe: never followed, never packed.
    #[error("{} is not a regular file: put a copy of what it stands for in its place", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
}

/// The archive of what is in `dir`, without what `is_left_out` says (asked with paths relative to `dir`);
/// `instead` gives files another content than they have on disk.
///
/// # Errors
/// [`PackError`].
pub fn pack(
    dir: &Path,
    is_left_out: &dyn Fn(&Path) -> bool,
    instead: &[(&str, Vec<u8>)],
) -> Result<Vec<u8>, PackError> {
    let mut files = Vec::new();
    collect(dir, Path::new(""), is_left_out, &mut files)?;
    for (name, _) in instead {
        if !files.iter().any(|file| file == Path::new(name)) {
            files.push(PathBuf::from(name));
        }
    }
    files.sort();
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for file in &files {
        let path = dir.join(file);
        let other = instead.iter().find(|(name, _)| file == Path::new(name));
        append(
            &mut archive,
            &path,
            file,
            other.map(|(_, content)| content.as_slice()),
        )
        .map_err(|source| PackError::Read { path, source })?;
    }
    archive
        .into_inner()
        .and_then(GzEncoder::finish)
        .map_err(|source| PackError::Read {
            path: dir.to_owned(),
            source,
        })
}

fn append(
    archive: &mut tar::Builder<GzEncoder<Vec<u8>>>,
    path: &Path,
    name: &Path,
    instead: Option<&[u8]>,
) -> io::Result<()> {
    let (content, mode) = match instead {
        Some(content) => (content.to_owned(), 0o644),
        None => (fs::read(path)?, fs::metadata(path)?.permissions().mode()),
    };
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(if mode & 0o100 != 0 { 0o755 } else { 0o644 });
    archive.append_data(&mut header, name, content.as_slice())
}

/// The regular files below `dir`/`below`, relative to `dir`.
fn collect(
    dir: &Path,
    below: &Path,
    is_left_out: &dyn Fn(&Path) -> bool,
    files: &mut Vec<PathBuf>,
) -> Result<(), PackError> {
    let folder = dir.join(below);
    let failed = |source| PackError::Read {
        path: folder.clone(),
        source,
    };
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = below.join(entry.file_name());
        if is_left_out(&name) {
            continue;
        }
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            collect(dir, &name, is_left_out, files)?;
        } else if kind.is_file() {
            files.push(name);
        } else {
            return Err(PackError::NotAFile {
                path: dir.join(name),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lib")).unwrap();
        fs::write(dir.path().join("lib/a.py"), "a = 1").unwrap();
        fs::write(dir.path().join("b.py"), "b = 1").unwrap();
        dir
    }

    fn nothing(_: &Path) -> bool {
        false
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let (one, other) = (folder(), folder());
        let pack = |dir: &tempfile::TempDir| pack(dir.path(), &nothing, &[]).unwrap();
        assert_eq!(pack(&one), pack(&other));
        fs::write(other.path().join("b.py"), "b = 2").unwrap();
        assert_ne!(pack(&one), pack(&other));
    }

    #[test]
    fn a_link_is_refused_by_name() {
        let dir = folder();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let error = pack(dir.path(), &nothing, &[]).unwrap_err();
        assert!(error.to_string().contains("link"), "{error}");
        let without = |path: &Path| path.ends_with("link");
        assert!(pack(dir.path(), &without, &[]).is_ok());
    }

    #[test]
    fn a_file_can_be_packed_with_another_content_or_be_new() {
        let dir = folder();
        let instead = [("b.py", b"b = 2".to_vec()), ("c.py", Vec::new())];
        let packed = pack(dir.path(), &nothing, &instead).unwrap();
        let place = dir.path().join("unpacked");
        store::unpack_layer(&packed, &place, &store::Limits::default()).unwrap();
        assert_eq!(fs::read_to_string(place.join("b.py")).unwrap(), "b = 2");
        assert!(place.join("c.py").is_file());
    }
}
