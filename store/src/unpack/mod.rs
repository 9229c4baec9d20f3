//! Opening a bundle or a layer without trusting it: the server checks before it stores, the worker unpacks
//! before it runs, and both go through [`check`], or [`check_layer`] for a layer, which has no manifest.
//!
//! A bundle is refused whole, before a byte is written, when it holds anything but plain files and
//! folders inside its own root, when two members claim one path, or when it is larger, unpacked, than the
//! [`Limits`] say. Sizes are those that come out of the decompressor, never those that headers claim, and
//! nothing is held in memory but one buffer, the set of paths, and the manifest.
//!
//! Deliberately absent: owners, times, permissions and extended attributes of members. Every file is
//! 0644, but for the entry of a native function, and every folder 0755, so a bundle can carry no set-user-id program.

mod members;

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::manifest::{MANIFEST_BYTES_MAX, MANIFEST_PATH, Manifest, ManifestError, Runtime};

/// Mode of every unpacked file.
const FILE_MODE: u32 = 0o644;
/// Of what is executed.
const EXECUTABLE_MODE: u32 = 0o755;
/// Mode of every unpacked folder.
const FOLDER_MODE: u32 = 0o755;

/// How large a bundle may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes as they are sent: compressed.
    pub bundle_bytes: u64,
    /// Bytes of all files together, unpacked.
    pub unpacked_bytes: u64,
    /// Files and folders.
    pub files: u64,
}

impl Limits {
    /// What a package layer may be, unless the store is told otherwise: libraries with compiled parts are
    /// larger than any function's own code.
    pub const LAYER: Self = Self {
        bundle_bytes: 256 << 20,
        unpacked_bytes: 1 << 30,
        files: 50_000,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bundle_bytes: 64 << 20,
            unpacked_bytes: 256 << 20,
            files: 10_000,
        }
    }
}

/// What was found in a layer that is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Files and folders.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// What was found in a bundle that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The manifest at its root.
    pub manifest: Manifest,
    /// Files and folders.
    pub files: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// More compressed bytes than allowed.
    #[error("bundle has {given} bytes, more than the {max} allowed")]
    BundleTooLarge {
        /// Its length.
        given: u64,
        /// The limit.
        max: u64,
    },
    /// Not gzip, cut short, or a broken checksum.
    #[error("bundle is no whole gzip-compressed tar archive")]
    NotAnArchive(#[source] io::Error),
    /// The members' contents, or the archive's own data about them, come to more than allowed.
    #[error("bundle unpacks to more than the {max} bytes allowed")]
    UnpackedTooLarge {
        /// The limit.
        max: u64,
    },
    /// More members than allowed.
    #[error("bundle holds more than the {max} files and folders allowed")]
    TooManyFiles {
        /// The limit.
        max: u64,
    },
    /// A member's path begins with `/`.
    #[error("bundle member `{path}` has an absolute path; paths must be relative to the bundle")]
    AbsolutePath {
        /// The path as the archive gives it.
        path: String,
    },
    /// A member's path holds `..`.
    #[error("bundle member `{path}` leaves the bundle by `..`")]
    ParentPath {
        /// The path as the archive gives it.
        path: String,
    },
    /// A member's path is empty, too long, too deep, or not UTF-8.
    #[error("bundle member `{path}` has a path that is empty, not UTF-8, or too long")]
    BadPath {
        /// The path as the archive gives it.
        path: String,
    },
    /// A member is a symbolic link.
    #[error("bundle member `{path}` is a symbolic link; put a copy of the file in its place")]
    Symlink {
        /// The path as the archive gives it.
        path: String,
    },
    /// A member is a hard link.
    #[error(
        "bundle member `{path}` is a hard link; make the archive with `tar --hard-dereference`"
    )]
    HardLink {
        /// The path as the archive gives it.
        path: String,
    },
    /// A member is a character or block device.
    #[error("bundle member `{path}` is a device node")]
    Device {
        /// The path as the archive gives it.
        path: String,
    },
    /// A member is a named pipe.
    #[error("bundle member `{path}` is a named pipe")]
    Fifo {
        /// The path as the archive gives it.
        path: String,
    },
    /// A member is sparse or of a kind that we do not know.
    #[error(
        "bundle member `{path}` is of tar type {kind:#04x}; only plain files and folders may be in a bundle"
    )]
    UnsupportedMember {
        /// The path as the archive gives it.
        path: String,
        /// The type byte of its header.
        kind: u8,
    },
    /// Two members claim one path, or a file is used as a folder.
    #[error("bundle holds `{path}` twice, or both as a file and as a folder")]
    DuplicatePath {
        /// The path.
        path: String,
    },
    /// No `warmpath.toml` at the root.
    #[error("bundle has no {MANIFEST_PATH} at its root")]
    NoManifest,
    /// A `warmpath.toml` beyond [`MANIFEST_BYTES_MAX`].
    #[error("{MANIFEST_PATH} has {given} bytes, more than the {MANIFEST_BYTES_MAX} allowed")]
    ManifestTooLarge {
        /// Its length.
        given: u64,
    },
    /// The manifest breaks a rule.
    #[error("bundle is refused because of its manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// The manifest names an entry file that the bundle has not got.
    #[error("bundle has no file `{entry}`, which its manifest names as `entry`")]
    NoEntry {
        /// The path in the manifest.
        entry: String,
    },
    /// The folder to unpack to is not empty.
    #[error("cannot unpack to {}: the folder is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A file or folder could not be written.
    #[error("cannot unpack to {}", path.display())]
    Write {
        /// What was being written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl UnpackError {
    /// One stable word for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::BundleTooLarge { .. } => "bundle_too_large",
            Self::NotAnArchive(_) => "bundle_not_an_archive",
            Self::UnpackedTooLarge { .. } => "bundle_unpacked_too_large",
            Self::TooManyFiles { .. } => "bundle_too_many_files",
            Self::AbsolutePath { .. } => "bundle_absolute_path",
            Self::ParentPath { .. } => "bundle_parent_path",
            Self::BadPath { .. } => "bundle_bad_path",
            Self::Symlink { .. } => "bundle_symlink",
            Self::HardLink { .. } => "bundle_hard_link",
            Self::Device { .. } => "bundle_device",
            Self::Fifo { .. } => "bundle_fifo",
            Self::UnsupportedMember { .. } => "bundle_unsupported_member",
            Self::DuplicatePath { .. } => "bundle_duplicate_path",
            Self::NoManifest => "bundle_no_manifest",
            Self::ManifestTooLarge { .. } => "bundle_manifest_too_large",
            Self::Manifest(_) => "bundle_manifest",
            Self::NoEntry { .. } => "bundle_no_entry",
            Self::NotEmpty { .. } => "folder_not_empty",
            Self::Write { .. } => "folder_write",
        }
    }
}

/// One plain member of a bundle.
enum Member<'a> {
    Folder,
    File(&'a mut dyn Read),
}

/// Checks a bundle without writing anything.
///
/// # Errors
/// [`UnpackError`] for the first rule that the bundle breaks.
pub fn check(bundle: &[u8], limits: &Limits) -> Result<Unpacked, UnpackError> {
    members::check_kinds(bundle, limits)?;
    let mut manifest = None;
    let found = members::visit(bundle, limits, &mut |path, member| {
        let Member::File(content) = member else {
            return Ok(());
        };
        if path == Path::new(MANIFEST_PATH) {
            manifest = Some(read_manifest(content)?);
        } else {
            io::copy(content, &mut io::sink())
                .map_err(|error| members::read_error(error, limits))?;
        }
        Ok(())
    })?;
    let manifest = Manifest::parse(&manifest.ok_or(UnpackError::NoManifest)?)?;
    if !found.is_file(Path::new(&manifest.entry)) {
        return Err(UnpackError::NoEntry {
            entry: manifest.entry,
        });
    }
    Ok(Unpacked {
        files: found.len(),
        bytes: found.bytes,
        manifest,
    })
}

/// Unpacks `bundle` into `dir`, which must be empty or absent. Everything is checked first: a refused
/// bundle leaves no file. To make the result appear at once, unpack beside its place and rename `dir`.
///
/// # Errors
/// [`UnpackError`]; after [`UnpackError::Write`] (a full disk, say) `dir` may hold part of the bundle.
pub fn unpack(bundle: &[u8], dir: &Path, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let unpacked = check(bundle, limits)?;
    write_members(bundle, dir, limits)?;
    if unpacked.manifest.runtime == Runtime::Native {
        let entry = dir.join(&unpacked.manifest.entry);
        fs::set_permissions(&entry, fs::Permissions::from_mode(EXECUTABLE_MODE)).map_err(
            |source| UnpackError::Write {
                path: entry.clone(),
                source,
            },
        )?;
    }
    Ok(unpacked)
}

/// Checks a layer without writing anything.
///
/// # Errors
/// [`UnpackError`] for the first rule that the layer breaks.
pub fn check_layer(layer: &[u8], limits: &Limits) -> Result<Contents, UnpackError> {
    members::check_kinds(layer, limits)?;
    let found = members::visit(layer, limits, &mut |_, member| match member {
        Member::Folder => Ok(()),
        Member::File(content) => io::copy(content, &mut io::sink())
            .map(drop)
            .map_err(|error| members::read_error(error, limits)),
    })?;
    Ok(Contents {
        files: found.len(),
        bytes: found.bytes,
    })
}

/// As [`unpack`], for a layer.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_layer(layer: &[u8], dir: &Path, limits: &Limits) -> Result<Contents, UnpackError> {
    let contents = check_layer(layer, limits)?;
    write_members(layer, dir, limits)?;
    Ok(contents)
}

/// Writes the members of an archive that was checked.
fn write_members(bundle: &[u8], dir: &Path, limits: &Limits) -> Result<(), UnpackError> {
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| UnpackError::Write { path, source }
    };
    fs::create_dir_all(dir).map_err(write(dir))?;
    if fs::read_dir(dir).map_err(write(dir))?.next().is_some() {
        return Err(UnpackError::NotEmpty {
            path: dir.to_owned(),
        });
    }
    members::visit(bundle, limits, &mut |path, member| {
        let place = dir.join(path);
        match member {
            Member::Folder => make_folders(dir, path),
            Member::File(content) => path
                .parent()
                .map_or(Ok(()), |parent| make_folders(dir, parent))
                .and_then(|()| write_file(&place, content)),
        }
        .map_err(write(&place))
    })
    .map(drop)
}

fn read_manifest(content: &mut dyn Read) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    content
        .take(MANIFEST_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(UnpackError::NotAnArchive)?;
    let given = bytes.len() as u64;
    if given > MANIFEST_BYTES_MAX {
        return Err(UnpackError::ManifestTooLarge { given });
    }
    Ok(bytes)
}

/// Makes the folders of `path` below `dir`. No member is a link and `dir` was empty, so no step of the
/// way can lead elsewhere.
fn make_folders(dir: &Path, path: &Path) -> io::Result<()> {
    let mut place = dir.to_owned();
    for part in path.components() {
        place.push(part);
        match fs::create_dir(&place) {
            Ok(()) => fs::set_permissions(&place, fs::Permissions::from_mode(FOLDER_MODE))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_file(place: &Path, content: &mut dyn Read) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(place)?;
    io::copy(content, &mut file)?;
    // The mode given to open is cut by the umask; this one is not.
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))
}

#[cfg(test)]
mod tests;
