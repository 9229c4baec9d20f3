//! Walks over the members of an archive in order, with every limit applied while reading.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType, PaxExtensions};

use super::{Limits, Member, UnpackError};

/// Longest path of a member.
const PATH_LEN_MAX: usize = 1_024;
/// Deepest path of a member.
const PATH_DEPTH_MAX: usize = 32;
/// Longest data that an archive may hold *about* a member (long names, PAX records): the tar crate reads
/// these into memory whole.
const METADATA_BYTES_MAX: u64 = 64 * 1024;
/// What an archive may hold besides contents, for each member: two headers, two rounds of padding.
const OVERHEAD_BYTES: u64 = 4 * 512;
/// Shown of a path in an error.
const SHOWN_LEN_MAX: usize = 200;

/// The paths met so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    paths: BTreeMap<PathBuf, Kind>,
    count: u64,
    /// Bytes of all files together.
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    /// A folder that has a member of its own.
    Folder,
    /// A folder that exists because something lies in it.
    Implied,
}

impl Found {
    /// Files and folders that have a member of their own.
    pub(super) const fn len(&self) -> u64 {
        self.count
    }

    pub(super) fn is_file(&self, path: &Path) -> bool {
        self.paths.get(path) == Some(&Kind::File)
    }

    /// Claims `path`, and the folders above it.
    fn claim(&mut self, path: &Path, kind: Kind) -> Result<(), UnpackError> {
        let duplicate = |path: &Path| UnpackError::DuplicatePath {
            path: path.display().to_string(),
        };
        for parent in path.ancestors().skip(1) {
            if self.paths.get(parent) == Some(&Kind::File) {
                return Err(duplicate(parent));
            }
            if !parent.as_os_str().is_empty() && !self.paths.contains_key(parent) {
                self.paths.insert(parent.to_owned(), Kind::Implied);
            }
        }
        match self.paths.get(path) {
            None => {}
            Some(Kind::Implied) if kind == Kind::Folder => {}
            Some(_) => return Err(duplicate(path)),
        }
        self.paths.insert(path.to_owned(), kind);
        self.count += 1;
        Ok(())
    }
}

/// A reader that ends with an error instead of giving more than its allowance.
struct Metered<R> {
    inner: R,
    left: u64,
}

/// The error of a [`Metered`] that ran out, so that it can be told from a broken archive.
#[derive(Debug, thiserror::Error)]
#[error("the allowance of unpacked bytes is used up")]
struct AllowanceUsedUp;

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(AllowanceUsedUp))?;
        Ok(read)
    }
}

fn open<'a>(bundle: &'a [u8], limits: &Limits) -> Metered<MultiGzDecoder<&'a [u8]>> {
    let overhead = limits.files.saturating_add(16) * OVERHEAD_BYTES + METADATA_BYTES_MAX;
    Metered {
        inner: MultiGzDecoder::new(bundle),
        left: limits.unpacked_bytes.saturating_add(overhead),
    }
}

/// What a failed read means.
pub(super) fn read_error(error: io::Error, limits: &Limits) -> UnpackError {
    // The tar crate wraps the errors of its reader in errors of its own.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        let inner = this
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if this.is::<AllowanceUsedUp>() || inner.is_some_and(|inner| inner.is::<AllowanceUsedUp>())
        {
            return UnpackError::UnpackedTooLarge {
                max: limits.unpacked_bytes,
            };
        }
        cause = this.source();
    }
    UnpackError::NotAnArchive(error)
}

/// First pass: the type, count and sizes of all members, taken raw, so that nothing that an archive says
/// *about* a member is believed (or held in memory) before it is known to be small.
pub(super) fn check_kinds(bundle: &[u8], limits: &Limits) -> Result<(), UnpackError> {
    let given = bundle.len() as u64;
    if given > limits.bundle_bytes {
        return Err(UnpackError::BundleTooLarge {
            given,
            max: limits.bundle_bytes,
        });
    }
    let read_error = |error| read_error(error, limits);
    let mut archive = Archive::new(open(bundle, limits));
    let mut members = 0u64;
    for entry in archive.entries().map_err(read_error)?.raw(true) {
        let mut entry = entry.map_err(read_error)?;
        let kind = entry.header().entry_type();
        if is_metadata(kind) {
            if entry.size() > METADATA_BYTES_MAX {
                return Err(UnpackError::BadPath {
                    path: shown(&entry.path_bytes()),
                });
            }
            let mut records = Vec::new();
            entry.read_to_end(&mut records).map_err(read_error)?;
            if sets_size(kind, &records) {
                return Err(UnpackError::UnsupportedMember {
                    path: shown(&entry.path_bytes()),
                    kind: kind.as_byte(),
                });
            }
            continue;
        }
        check_kind(kind, &entry.path_bytes())?;
        members += 1;
        if members > limits.files {
            return Err(UnpackError::TooManyFiles { max: limits.files });
        }
    }
    // To the end: only then has the decompressor compared its checksum.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(read_error)?;
    Ok(())
}

const fn is_metadata(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::GNULongName
            | EntryType::GNULongLink
            | EntryType::XHeader
            | EntryType::XGlobalHeader
    )
}

/// Whether these PAX records give the next member another size than its header does. Only files of more
/// than 8 GiB need that; in a small bundle its one use is to make two readers see different members.
fn sets_size(kind: EntryType, records: &[u8]) -> bool {
    let is_pax = matches!(kind, EntryType::XHeader | EntryType::XGlobalHeader);
    is_pax
        && PaxExtensions::new(records)
            .any(|record| record.map_or(true, |record| record.key_bytes() == b"size"))
}

fn check_kind(kind: EntryType, path: &[u8]) -> Result<(), UnpackError> {
    let path = shown(path);
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::Directory => Ok(()),
        EntryType::Symlink => Err(UnpackError::Symlink { path }),
        EntryType::Link => Err(UnpackError::HardLink { path }),
        EntryType::Char | EntryType::Block => Err(UnpackError::Device { path }),
        EntryType::Fifo => Err(UnpackError::Fifo { path }),
        other => Err(UnpackError::UnsupportedMember {
            path,
            kind: other.as_byte(),
        }),
    }
}

/// Second pass: calls `visit` with each plain member and its checked path.
pub(super) fn visit(
    bundle: &[u8],
    limits: &Limits,
    visit: &mut dyn FnMut(&Path, Member<'_>) -> Result<(), UnpackError>,
) -> Result<Found, UnpackError> {
    let read_error = |error| read_error(error, limits);
    let mut found = Found::default();
    let mut archive = Archive::new(open(bundle, limits));
    for entry in archive.entries().map_err(read_error)? {
        let mut entry = entry.map_err(read_error)?;
        let kind = entry.header().entry_type();
        // Global PAX records (git archive writes its commit there) say nothing that we use.
        if is_metadata(kind) {
            continue;
        }
        check_kind(kind, &entry.path_bytes())?;
        let path = plain_path(&entry.path_bytes())?;
        if kind == EntryType::Directory {
            // `tar -C dir .` begins with the folder itself.
            if !path.as_os_str().is_empty() {
                found.claim(&path, Kind::Folder)?;
                visit(&path, Member::Folder)?;
            }
            continue;
        }
        if path.as_os_str().is_empty() {
            return Err(UnpackError::BadPath {
                path: shown(&entry.path_bytes()),
            });
        }
        found.claim(&path, Kind::File)?;
        found.bytes = found.bytes.saturating_add(entry.size());
        if found.bytes > limits.unpacked_bytes {
            return Err(UnpackError::UnpackedTooLarge {
                max: limits.unpacked_bytes,
            });
        }
        visit(&path, Member::File(&mut entry))?;
    }
    Ok(found)
}

/// The path of a member, if it is relative, stays below the root and is of a reasonable length.
fn plain_path(bytes: &[u8]) -> Result<PathBuf, UnpackError> {
    let bad = || UnpackError::BadPath { path: shown(bytes) };
    let Ok(text) = str::from_utf8(bytes) else {
        return Err(bad());
    };
    if text.is_empty() || text.len() > PATH_LEN_MAX || text.contains('\0') {
        return Err(bad());
    }
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(UnpackError::ParentPath { path: shown(bytes) }),
            Component::RootDir | Component::Prefix(_) => {
                return Err(UnpackError::AbsolutePath { path: shown(bytes) });
            }
        }
    }
    if path.components().count() > PATH_DEPTH_MAX {
        return Err(bad());
    }
    Ok(path)
}

/// A path as an error may show it.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(SHOWN_LEN_MAX)
        .flat_map(char::escape_default)
        .collect()
}
