//! Where built roots are kept: a folder for each, named by its digest.
//!
//! ```text
//! DIR/lock              held by whoever builds or removes
//! DIR/<digest>/root     the root file system
//! DIR/<digest>/list     the packages that it was built of
//! DIR/<digest>/manifest every file of it, with its SHA-256; held by workers that use it
//! DIR/.building-…       half built: of a builder that holds the lock, or of one that was killed
//! ```

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::Serialize;
use store::Digest;

use super::list::List;

pub(super) const ROOT: &str = "root";
pub(super) const LIST: &str = "list";
const MANIFEST: &str = "manifest";
const LOCK: &str = "lock";
/// What begins with this is of no use to anybody when nobody holds the lock.
const UNFINISHED: &str = ".";
const DIGEST_LEN: usize = 64;

/// A folder of built roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// A step on a file failed.
    #[error("cannot {doing} {path}")]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no such root.
    #[error(
        "{dir} has no root file system {name}: `warmpath worker rootfs list` shows those it has, `build` builds one"
    )]
    Absent {
        /// The folder.
        dir: PathBuf,
        /// What was asked for.
        name: String,
    },
    /// It is in use.
    #[error("the root file system {0} is used by a worker that runs: stop that worker first")]
    InUse(String),
    /// A task of ours ended by itself.
    #[error("waiting for another builder was cut short")]
    CutShort,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeptError {
    let path = path.to_owned();
    move |source| KeptError::File {
        doing,
        path,
        source,
    }
}

/// A root that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// Its name.
    pub digest: String,
    /// The root itself.
    pub root: PathBuf,
    /// Debian's names of release and processor.
    pub suite: String,
    /// The processor.
    pub architecture: String,
    /// How many packages it is of.
    pub packages: usize,
    /// Bytes of its files.
    pub bytes: u64,
    /// Whether it is what this binary's own list makes.
    pub is_own: bool,
    /// Whether a worker that runs uses it.
    pub is_used: bool,
}

/// How a root differs from what was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The file, in the root.
    pub path: String,
    /// `missing`, `changed` or `added`.
    pub what: &'static str,
}

/// A folder of built roots.
#[derive(Debug, Clone)]
pub struct Kept {
    dir: PathBuf,
}

/// Held by who changes what is kept.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Kept {
    /// Those in `dir`, which need not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where the root `digest` is, or will be.
    #[must_use]
    pub fn root(&self, digest: &str) -> PathBuf {
        self.dir.join(digest).join(ROOT)
    }

    /// Whether it is there.
    #[must_use]
    pub fn has(&self, digest: &str) -> bool {
        digest.len() == DIGEST_LEN && self.dir.join(digest).join(MANIFEST).is_file()
    }

    /// The whole digest of the one whose digest begins with `name`, 12 digits or more.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn find(&self, name: &str) -> Result<String, KeptError> {
        let names = self.names()?;
        let mut found = names
            .into_iter()
            .filter(|digest| name.len() >= 12 && digest.starts_with(name));
        match (found.next(), found.next()) {
            (Some(digest), None) => Ok(digest),
            _ => Err(KeptError::Absent {
                dir: self.dir.clone(),
                name: name.to_owned(),
            }),
        }
    }

    fn names(&self) -> Result<Vec<String>, KeptError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("read", &self.dir))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed("read", &self.dir))?.file_name();
            names.extend(
                name.to_str()
                    .filter(|name| self.has(name))
                    .map(str::to_owned),
            );
        }
        names.sort();
        Ok(names)
    }

    /// All of them.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<Stored>, KeptError> {
        let own = List::own().ok().map(|list| list.digest().hex().to_owned());
        let stored = |digest: String| {
            let folder = self.dir.join(&digest);
            let list = List::load(&folder.join(LIST)).ok();
            let manifest = fs::read_to_string(folder.join(MANIFEST)).unwrap_or_default();
            let (suite, architecture, packages) = list.map_or_else(Default::default, |list| {
                (list.suite, list.architecture, list.packages.len())
            });
            Ok(Stored {
                is_own: own.as_ref() == Some(&digest),
                is_used: self.is_used(&digest)?,
                root: self.root(&digest),
                bytes: manifest.lines().filter_map(size_of).sum(),
                digest,
                suite,
                architecture,
                packages,
            })
        };
        self.names()?.into_iter().map(stored).collect()
    }

    /// Compares every file of `digest` with what was built.
    ///
    /// # Errors
    /// There is no such root, or it cannot be read.
    pub fn verify(&self, digest: &str) -> Result<Vec<Difference>, KeptError> {
        let folder = self.dir.join(digest);
        let path = folder.join(MANIFEST);
        let built = fs::read_to_string(&path).map_err(failed("read", &path))?;
        let mut now = String::new();
        describe(&folder.join(ROOT), Path::new(""), &mut now)?;
        Ok(differences(&built, &now))
    }

    /// Removes `digest`.
    ///
    /// # Errors
    /// A worker uses it, or it cannot be removed.
    pub fn remove(&self, digest: &str) -> Result<(), KeptError> {
        let lock = self.lock()?;
        if self.is_used(digest)? {
            return Err(KeptError::InUse(digest.to_owned()));
        }
        // Gone for everybody at once, whatever becomes of the rest.
        let (folder, going) = (
            self.dir.join(digest),
            self.dir.join(format!(".removing-{digest}")),
        );
        fs::rename(&folder, &going).map_err(failed("remove", &folder))?;
        self.sweep(&lock)
    }

    fn is_used(&self, digest: &str) -> Result<bool, KeptError> {
        let path = self.dir.join(digest).join(MANIFEST);
        let file = File::open(&path).map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    /// Has it be in use for as long as the file is open.
    pub(super) fn hold(&self, digest: &str) -> Result<File, KeptError> {
        let path = self.dir.join(digest).join(MANIFEST);
        let file = File::open(&path).map_err(failed("open", &path))?;
        file.lock_shared().map_err(failed("lock", &path))?;
        Ok(file)
    }

    fn lock_file(&self) -> Result<(File, PathBuf), KeptError> {
        fs::create_dir_all(&self.dir).map_err(failed("make", &self.dir))?;
        let path = self.dir.join(LOCK);
        let file = File::options().create(true).append(true).open(&path);
        Ok((file.map_err(failed("open", &path))?, path))
    }

    /// The lock, if nobody has it.
    pub(super) fn try_lock(&self) -> Result<Option<Lock>, KeptError> {
        let (file, path) = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    /// The lock, once nobody has it.
    pub(super) fn lock(&self) -> Result<Lock, KeptError> {
        let (file, path) = self.lock_file()?;
        file.lock().map_err(failed("lock", &path))?;
        Ok(Lock { _file: file })
    }

    /// Removes what builders left that were killed.
    pub(super) fn sweep(&self, _lock: &Lock) -> Result<(), KeptError> {
        for entry in fs::read_dir(&self.dir).map_err(failed("read", &self.dir))? {
            let entry = entry.map_err(failed("read", &self.dir))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_dir_all(entry.path()).map_err(failed("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// An empty folder to build `digest` in.
    pub(super) fn site(&self, _lock: &Lock, digest: &str) -> Result<PathBuf, KeptError> {
        let site = self.dir.join(format!(".building-{digest}"));
        fs::create_dir(&site).map_err(failed("make", &site))?;
        Ok(site)
    }

    /// Makes what is in `site` the root `digest`.
    pub(super) fn publish(&self, _lock: &Lock, site: &Path, digest: &str) -> Result<(), KeptError> {
        let place = self.dir.join(digest);
        fs::rename(site, &place).map_err(failed("publish", &place))?;
        let folder = File::open(&self.dir).map_err(failed("open", &self.dir))?;
        folder.sync_all().map_err(failed("sync", &self.dir))
    }
}

/// Takes the right to write from every file of the root in `site`, and writes down what it has.
pub(super) fn seal(site: &Path) -> Result<(), KeptError> {
    let mut manifest = String::new();
    close(&site.join(ROOT))?;
    describe(&site.join(ROOT), Path::new(""), &mut manifest)?;
    let path = site.join(MANIFEST);
    fs::write(&path, manifest).map_err(failed("write", &path))
}

/// Readable for all, writable for none.
fn close(path: &Path) -> Result<(), KeptError> {
    let meta = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    if meta.is_symlink() {
        return Ok(());
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(failed("read", path))? {
            close(&entry.map_err(failed("read", path))?.path())?;
        }
    }
    let executable = meta.is_dir() || meta.mode() & 0o111 != 0;
    let mode = if executable { 0o555 } else { 0o444 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("close", path))
}

/// Adds a line for `path` of `root` and everything below it: mode, bytes, SHA-256 or target, path.
fn describe(root: &Path, path: &Path, out: &mut String) -> Result<(), KeptError> {
    use std::fmt::Write as _;
    let here = root.join(path);
    let meta = fs::symlink_metadata(&here).map_err(failed("look at", &here))?;
    let (mut bytes, mut what) = (0, "-".to_owned());
    if meta.is_symlink() {
        let target = fs::read_link(&here).map_err(failed("read", &here))?;
        what = format!("-> {}", target.display());
    } else if meta.is_file() {
        let content = fs::read(&here).map_err(failed("read", &here))?;
        bytes = content.len();
        what = Digest::of(&content).hex().to_owned();
    }
    let path_text = path.display();
    writeln!(out, "{:o}\t{bytes}\t{what}\t/{path_text}", meta.mode())
        .expect("writing to a string does not fail");
    if meta.is_dir() {
        let entries = fs::read_dir(&here).map_err(failed("read", &here))?;
        let names: Result<Vec<_>, _> = entries.map(|entry| Ok(entry?.file_name())).collect();
        let mut names = names.map_err(failed("read", &here))?;
        names.sort();
        for name in names {
            describe(root, &path.join(name), out)?;
        }
    }
    Ok(())
}

fn size_of(line: &str) -> Option<u64> {
    line.split('\t').nth(1)?.parse().ok()
}

/// Both are by path, but not in the order of whole paths.
fn differences(built: &str, now: &str) -> Vec<Difference> {
    use std::collections::BTreeMap;
    let by_path = |text: &'_ str| -> BTreeMap<String, String> {
        let lines = text.lines().filter_map(|line| line.rsplit_once('\t'));
        lines
            .map(|(what, path)| (path.to_owned(), what.to_owned()))
            .collect()
    };
    let (built, mut now) = (by_path(built), by_path(now));
    let mut all = Vec::new();
    for (path, what) in built {
        match now.remove(&path) {
            Some(same) if same == what => {}
            Some(_) => all.push(Difference {
                path,
                what: "changed",
            }),
            None => all.push(Difference {
                path,
                what: "missing",
            }),
        }
    }
    all.extend(now.into_keys().map(|path| Difference {
        path,
        what: "added",
    }));
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(sign: char) -> String {
        sign.to_string().repeat(DIGEST_LEN)
    }

    /// A folder with one root of a few files, published as builders do it.
    fn kept() -> (tempfile::TempDir, Kept) {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        let lock = kept.lock().unwrap();
        let site = kept.site(&lock, &digest('a')).unwrap();
        fs::create_dir_all(site.join("root/usr/bin")).unwrap();
        fs::write(site.join("root/usr/bin/tool"), "tool").unwrap();
        std::os::unix::fs::symlink("tool", site.join("root/usr/bin/link")).unwrap();
        fs::write(site.join(LIST), List::own().unwrap().text()).unwrap();
        seal(&site).unwrap();
        assert!(!kept.has(&digest('a')), "not before it is published");
        kept.publish(&lock, &site, &digest('a')).unwrap();
        (dir, kept)
    }

    /// Lets a test change, and clean up, what was sealed.
    fn open(kept: &Kept) -> PathBuf {
        let root = kept.root(&digest('a'));
        for folder in ["", "usr", "usr/bin"] {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(root.join(folder), mode).unwrap();
        }
        root
    }

    #[test]
    fn a_root_is_found_listed_and_removed() {
        let (_dir, kept) = kept();
        open(&kept);
        assert_eq!(kept.find(&digest('a')[..12]).unwrap(), digest('a'));
        for name in ["aaa", "b", &digest('b'), "", "../../../../etc"] {
            assert!(
                matches!(kept.find(name), Err(KeptError::Absent { .. })),
                "{name}"
            );
        }
        let stored = &kept.list().unwrap()[0];
        assert_eq!(
            (stored.bytes, stored.is_own, stored.is_used),
            (4, false, false)
        );
        kept.remove(&digest('a')).unwrap();
        assert_eq!(kept.list().unwrap(), []);
        assert!(kept.remove(&digest('a')).is_err());
    }

    #[test]
    fn what_was_changed_is_told_by_its_path() {
        let (_dir, kept) = kept();
        let folder = kept.dir.join(digest('a'));
        let built = fs::read_to_string(folder.join(MANIFEST)).unwrap();
        let mut now = String::new();
        describe(&folder.join(ROOT), Path::new(""), &mut now).unwrap();
        assert_eq!(differences(&built, &now), []);
        let root = open(&kept);
        fs::write(root.join("usr/bin/new"), "").unwrap();
        fs::remove_file(root.join("usr/bin/link")).unwrap();
        fs::remove_file(root.join("usr/bin/tool")).unwrap();
        fs::write(root.join("usr/bin/tool"), "evil").unwrap();
        let found = kept.verify(&digest('a')).unwrap();
        let what = |path: &str| found.iter().find(|it| it.path == path).map(|it| it.what);
        assert_eq!(what("/usr/bin/new"), Some("added"));
        assert_eq!(what("/usr/bin/link"), Some("missing"));
        assert_eq!(what("/usr/bin/tool"), Some("changed"));
        assert_eq!(what("/usr/bin"), Some("changed"), "it can be written");
    }

    #[test]
    fn a_root_in_use_is_not_removed() {
        let (_dir, kept) = kept();
        open(&kept);
        let held = kept.hold(&digest('a')).unwrap();
        assert!(kept.list().unwrap()[0].is_used);
        assert!(matches!(
            kept.remove(&digest('a')),
            Err(KeptError::InUse(_))
        ));
        drop(held);
        kept.remove(&digest('a')).unwrap();
    }

    #[test]
    fn builders_take_turns_and_clear_away_what_killed_ones_left() {
        let (_dir, kept) = kept();
        open(&kept);
        let lock = kept.lock().unwrap();
        kept.site(&lock, &digest('b')).unwrap();
        assert!(kept.try_lock().unwrap().is_none());
        drop(lock);
        let lock = kept.try_lock().unwrap().unwrap();
        kept.sweep(&lock).unwrap();
        kept.site(&lock, &digest('b')).unwrap();
        kept.sweep(&lock).unwrap();
        assert_eq!(kept.names().unwrap(), [digest('a')]);
        assert!(!kept.dir.join(format!(".building-{}", digest('b'))).exists());
    }
}
