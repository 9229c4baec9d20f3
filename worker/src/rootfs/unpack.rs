//! The files of a package into a root. `dpkg-deb` takes the package apart; which of its files go where is decided here,
//! so that no package can write outside of the root, make a device, or bring a setuid file.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
};

use tar::{Archive, Entry, EntryType};

/// What lies in `/usr` on a merged system, wherever a package has it.
const MERGED: [&str; 5] = ["bin", "lib", "lib32", "lib64", "sbin"];
/// Of no use to a handler: a third of what is unpacked.
const LEFT_OUT: [&str; 10] = [
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/gdb",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
];

/// A package cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tool is missing.
    #[error("cannot run dpkg-deb: install the package dpkg")]
    NoTool(#[source] io::Error),
    /// The tool does not take it.
    #[error("dpkg-deb cannot read the package {0}")]
    Broken(String),
    /// It is no archive.
    #[error("cannot read the files of the package {package}")]
    Archive {
        /// The package.
        package: String,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// A file that no package of a root should have.
    #[error("the package {package} has {path}, {problem}")]
    Refused {
        /// The package.
        package: String,
        /// The file.
        path: PathBuf,
        /// Why it is not unpacked.
        problem: &'static str,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Unpacks the file `deb` of the package `name` into `root`.
pub(super) fn unpack(deb: &Path, name: &str, root: &Path) -> Result<(), UnpackError> {
    let mut tool = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(UnpackError::NoTool)?;
    let unpacked = match tool.stdout.take() {
        Some(files) => unpack_tar(files, name, root),
        None => Err(UnpackError::Broken(name.to_owned())),
    };
    // Also when ours failed: its end of the pipe is closed by now.
    let ended = tool.wait().map_err(UnpackError::NoTool)?;
    unpacked?;
    if !ended.success() {
        return Err(UnpackError::Broken(name.to_owned()));
    }
    Ok(())
}

fn unpack_tar(files: impl io::Read, name: &str, root: &Path) -> Result<(), UnpackError> {
    let broken = |source| UnpackError::Archive {
        package: name.to_owned(),
        source,
    };
    let mut archive = Archive::new(files);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let refused = |problem| UnpackError::Refused {
            package: name.to_owned(),
            path: path.clone(),
            problem,
        };
        let Some(place) = place(&path).map_err(refused)? else {
            continue;
        };
        let link = entry
            .link_name()
            .map_err(broken)?
            .map(|link| link.into_owned());
        let to = root.join(&place);
        directories(root, place.parent().unwrap_or_else(|| Path::new(""))).map_err(refused)?;
        write(&mut entry, link.as_deref(), root, &to).map_err(|error| match error {
            Trouble::Refused(problem) => refused(problem),
            Trouble::Io(source) => UnpackError::Write { path: to, source },
        })?;
    }
    Ok(())
}

enum Trouble {
    Refused(&'static str),
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn write<R: io::Read>(
    entry: &mut Entry<'_, R>,
    link: Option<&Path>,
    root: &Path,
    to: &Path,
) -> Result<(), Trouble> {
    let kind = entry.header().entry_type();
    if kind == EntryType::Directory {
        return match fs::create_dir(to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(to) => {
                Ok(())
            }
            other => Ok(other?),
        };
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(Trouble::Refused("which another package has as well"));
    }
    match (kind, link) {
        (EntryType::Regular, _) => {
            let mut file = fs::File::create_new(to)?;
            io::copy(entry, &mut file)?;
            let executable = entry.header().mode()? & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
        }
        (EntryType::Symlink, Some(target)) => symlink(target, to)?,
        (EntryType::Link, Some(target)) => match place(target).map_err(Trouble::Refused)? {
            Some(target) => fs::hard_link(root.join(target), to)?,
            None => return Err(Trouble::Refused("a link to what is left out")),
        },
        _ => return Err(Trouble::Refused("neither a file, a directory nor a link")),
    }
    Ok(())
}

/// Where a file of a package goes; `None`: nowhere.
fn place(path: &Path) -> Result<Option<PathBuf>, &'static str> {
    let mut steps = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(step) => steps.push(step.to_str().ok_or("whose name is no text")?),
            _ => return Err("whose path leads out of the root"),
        }
    }
    if steps.iter().any(|step| step.contains(['\n', '\t'])) {
        return Err("whose name has a line break");
    }
    match steps.first() {
        Some(first) if MERGED.contains(first) => steps.insert(0, "usr"),
        Some(&"usr") if steps.len() > 1 => {}
        _ => return Ok(None),
    }
    let place: PathBuf = steps.iter().collect();
    Ok((!LEFT_OUT.iter().any(|left| place.starts_with(left))).then_some(place))
}

/// Makes the directories on the way to a file, none of which may be a link: it could lead anywhere.
fn directories(root: &Path, place: &Path) -> Result<(), &'static str> {
    let mut path = root.to_owned();
    for step in place {
        path.push(step);
        if !is_directory(&path) && fs::create_dir(&path).is_err() {
            return Err("on whose way there is something that is no directory");
        }
    }
    Ok(())
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of entries: kind, path, mode, and content or link.
    fn archive(entries: &[(EntryType, &str, u32, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, path, mode, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            // Not `set_path`, which has rules of its own.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            let content = match kind {
                EntryType::Regular => text.as_bytes(),
                _ => {
                    header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
                    b""
                }
            };
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(
        entries: &[(EntryType, &str, u32, &str)],
    ) -> (tempfile::TempDir, Result<(), UnpackError>) {
        let root = tempfile::tempdir().unwrap();
        let done = unpack_tar(archive(entries).as_slice(), "one", root.path());
        (root, done)
    }

    const FILE: EntryType = EntryType::Regular;

    #[test]
    fn everything_lands_in_usr_and_the_rest_is_left_out() {
        let (root, done) = unpacked(&[
            (EntryType::Directory, "./", 0o755, ""),
            (EntryType::Directory, "./bin/", 0o755, ""),
            (FILE, "./bin/su", 0o4755, "x"),
            (FILE, "./usr/bin/plain", 0o640, "y"),
            (EntryType::Link, "./usr/bin/again", 0o644, "./bin/su"),
            (EntryType::Symlink, "./lib/a.so.1", 0o777, "a.so.1.0"),
            (FILE, "./etc/shadow", 0o600, "z"),
            (FILE, "./usr/share/doc/one/copyright", 0o644, "z"),
        ]);
        done.unwrap();
        let mode = |path: &str| {
            fs::metadata(root.path().join(path))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777
        };
        assert_eq!((mode("usr/bin/su"), mode("usr/bin/plain")), (0o755, 0o644));
        assert_eq!(fs::read(root.path().join("usr/bin/again")).unwrap(), b"x");
        let link = fs::read_link(root.path().join("usr/lib/a.so.1")).unwrap();
        assert_eq!(link, Path::new("a.so.1.0"));
        for absent in ["etc", "bin", "usr/share/doc"] {
            assert!(!root.path().join(absent).exists(), "{absent}");
        }
    }

    #[test]
    fn a_package_that_reaches_beyond_its_files_is_refused() {
        for entries in [
            &[(FILE, "./usr/../../x", 0o644, "x")][..],
            &[(FILE, "/usr/bin/x", 0o644, "x")],
            &[
                (EntryType::Symlink, "./usr/lib/out", 0o777, "/"),
                (FILE, "./usr/lib/out/x", 0o644, "x"),
            ],
            &[(EntryType::Char, "./usr/lib/null", 0o666, "")],
            &[(EntryType::Fifo, "./usr/lib/fifo", 0o666, "")],
            &[
                (FILE, "./bin/x", 0o755, "x"),
                (FILE, "./usr/bin/x", 0o755, "y"),
            ],
            &[(EntryType::Link, "./usr/bin/x", 0o755, "../../etc/shadow")],
            &[(EntryType::Link, "./usr/bin/x", 0o755, "./etc/shadow")],
        ] {
            let (_root, done) = unpacked(entries);
            assert!(
                matches!(done, Err(UnpackError::Refused { .. })),
                "{entries:?}: {done:?}"
            );
        }
    }
}
