//! From a function's folder to layers in the store.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use store::{Digest, StoreClient, manifest::LAYERS_MAX};
use tempfile::TempDir;

use crate::{
    archive,
    cell::{Cell, CellError, Mount, Plan, Program, host_user},
    error::ResolveError,
    lock::{self, Lock, Locked},
    npm,
    pip::{self, Pip},
    proxy::Proxy,
};

const REQUIREMENTS: &str = "requirements.txt";
/// The lock's name, beside the requirements.
const LOCK: &str = "requirements.lock";
/// All packages of a function, unpacked.
const UNPACKED_BYTES_MAX: u64 = 4 << 30;
const UNWHEEL: &str = include_str!("unwheel.py");

/// How to resolve.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Python that functions run with; its pip resolves.
    pub python: PathBuf,
    /// Answers to `package-cell` by calling [`crate::cell::cell_main`].
    pub executable: PathBuf,
    /// The index to ask, instead of the one that pip or npm is configured to.
    pub index_url: Option<String>,
    /// Hosts, besides those of the configured index, that packages may come from.
    pub index_hosts: Vec<String>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// Resolve anew, whatever is locked.
    pub upgrade: bool,
}

/// What a function's folder asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requires {
    /// `requirements.txt`.
    Python,
    /// `package.json` with dependencies.
    Node,
}

impl Requires {
    /// What the function in `dir` requires, if anything.
    #[must_use]
    pub fn of(dir: &Path) -> Option<Self> {
        if dir.join(REQUIREMENTS).is_file() {
            return Some(Self::Python);
        }
        npm::has_dependencies(dir).then_some(Self::Node)
    }
}

/// A layer that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// What it holds, for people: `numpy 2.4.0`.
    pub what: String,
    /// Its name.
    pub digest: Digest,
    /// Whether the store had it before.
    pub shared: bool,
}

/// Makes layers of what the function in `dir` requires, and puts them into `store`. The lock is written
/// beside the requirements.
///
/// # Errors
/// [`ResolveError`] says whose fault it is.
pub async fn resolve(
    dir: &Path,
    requires: Requires,
    options: &Options,
    store: &StoreClient,
) -> Result<Vec<Made>, ResolveError> {
    let (dir, options) = (dir.to_owned(), options.clone());
    // Everything but the proxy blocks; the proxy runs on this runtime.
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        let _entered = runtime.enter();
        match requires {
            Requires::Python => python(&dir, &options),
            Requires::Node => npm::layers(&dir, &options),
        }
    };
    let archives = tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(CellError::Inside(error.to_string()).into()))?;
    let mut made = Vec::with_capacity(archives.len());
    for (what, layer) in archives {
        let digest = Digest::of(&layer);
        let shared = store.has_layer(&digest).await?;
        if !shared {
            store.put_layer(layer.into()).await?;
        }
        made.push(Made {
            what,
            digest,
            shared,
        });
    }
    Ok(made)
}

pub(crate) fn file_error(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> ResolveError {
    let path = path.to_owned();
    move |source| ResolveError::File {
        doing,
        path,
        source,
    }
}

/// The folders of one resolution; they go with it.
pub(crate) struct Workplace {
    folder: TempDir,
}

impl Workplace {
    pub(crate) fn new() -> Result<Self, ResolveError> {
        let tmp = std::env::temp_dir();
        let folder = tempfile::Builder::new()
            .prefix("warmpath-packages-")
            .tempdir()
            .map_err(file_error("make a folder in", &tmp))?;
        let user = host_user();
        for name in ["root", "in", "out", "out/tmp", "out/layers"] {
            let path = folder.path().join(name);
            fs::create_dir(&path)
                .and_then(|()| chown(&path, Some(user), None))
                .map_err(file_error("make", &path))?;
        }
        // Another user goes through it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))
            .map_err(file_error("open", folder.path()))?;
        Ok(Self { folder })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file where the cell can read it.
    pub(crate) fn give(&self, name: &str, content: &[u8]) -> Result<(), ResolveError> {
        let path = self.path("in").join(name);
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
            .map_err(file_error("write", &path))
    }

    /// A file that the cell wrote; never through a link.
    pub(crate) fn take(&self, name: &str) -> Result<Vec<u8>, ResolveError> {
        let path = self.path("out").join(name);
        let meta = fs::symlink_metadata(&path).map_err(file_error("read", &path))?;
        if !meta.is_file() {
            return Err(archive::PackError::NotAFile { path }.into());
        }
        fs::read(&path).map_err(file_error("read", &path))
    }

    pub(crate) fn plan(&self, mounts: Vec<Mount>) -> Plan {
        let mut all = vec![
            Mount {
                host: self.path("in"),
                inside: PathBuf::from("/in"),
                writable: false,
            },
            Mount {
                host: self.path("out"),
                inside: PathBuf::from("/out"),
                writable: true,
            },
        ];
        all.extend(mounts);
        Plan {
            root: self.path("root"),
            mounts: all,
        }
    }
}

/// A cell with its proxy, and the time that is left for both.
pub(crate) struct Session {
    cell: Cell,
    pub(crate) proxy: Proxy,
    limit: Duration,
    end: Instant,
}

impl Session {
    pub(crate) fn start(
        options: &Options,
        plan: &Plan,
        hosts: std::collections::BTreeSet<String>,
    ) -> Result<Self, ResolveError> {
        let end = Instant::now() + options.timeout;
        let (cell, listener) = Cell::start(&options.executable, plan)?;
        let proxy =
            Proxy::start(listener, hosts).map_err(file_error("serve", Path::new("the proxy")))?;
        Ok(Self {
            cell,
            proxy,
            limit: options.timeout,
            end,
        })
    }

    /// Whether the program ended well.
    pub(crate) fn run(
        &self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Result<bool, ResolveError> {
        let program = Program {
            argv,
            env,
            dir: PathBuf::from("/out"),
            log: PathBuf::from("/out/said"),
        };
        let left = self.end.saturating_duration_since(Instant::now());
        match self.cell.run(&program, left) {
            Ok(code) => Ok(code == 0),
            Err(CellError::TimedOut(_)) => Err(ResolveError::Slow { limit: self.limit }),
            Err(error) => Err(error.into()),
        }
    }
}

/// A layer's description and its archive, one for each package.
fn python(dir: &Path, options: &Options) -> Result<Vec<(String, Vec<u8>)>, ResolveError> {
    let path = dir.join(REQUIREMENTS);
    let requirements = fs::read(&path).map_err(file_error("read", &path))?;
    let mut pip = Pip::of_host(&options.python)?;
    if let Some(url) = &options.index_url {
        pip = pip.with_index(url);
    }
    let basis = lock::basis(&requirements, &pip.version);
    let place = Workplace::new()?;
    let plan = place.plan(pip.mounts());
    let session = Session::start(options, &plan, pip.hosts(&options.index_hosts))?;
    let lock_path = dir.join(LOCK);
    let locked = match fs::read_to_string(&lock_path) {
        Ok(text) if !options.upgrade => Lock::parse(&text, &lock_path, &basis)?,
        _ => None,
    };
    let lock = match locked {
        Some(lock) => lock,
        None => {
            let lock = make_lock(&session, &place, &pip, &requirements, basis)?;
            fs::write(&lock_path, lock.text()).map_err(file_error("write", &lock_path))?;
            lock
        }
    };
    if lock.packages.len() > LAYERS_MAX {
        return Err(ResolveError::TooMany {
            given: lock.packages.len(),
            max: LAYERS_MAX,
        });
    }
    if lock.packages.is_empty() {
        return Ok(Vec::new());
    }
    fetch(&session, &place, &pip, &lock)?;
    // From here on nothing in the cell can change what it wrote.
    drop(session);
    lock.packages
        .iter()
        .map(|package| layer(&place, package))
        .collect()
}

fn make_lock(
    session: &Session,
    place: &Workplace,
    pip: &Pip,
    requirements: &[u8],
    basis: String,
) -> Result<Lock, ResolveError> {
    place.give(REQUIREMENTS, requirements)?;
    let args = [
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--only-binary",
        ":all:",
        "--target",
        "/out/none",
        "--report",
        "/out/report.json",
        "--log",
        "/out/log",
        "--requirement",
        "/in/requirements.txt",
    ];
    run_pip(session, place, pip, &args)?;
    Lock::of_report(&place.take("report.json")?, basis)
}

fn fetch(session: &Session, place: &Workplace, pip: &Pip, lock: &Lock) -> Result<(), ResolveError> {
    place.give(LOCK, lock.text().as_bytes())?;
    place.give("unwheel.py", UNWHEEL.as_bytes())?;
    let args = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        "/out/wheels",
        "--log",
        "/out/log",
        "--requirement",
        "/in/requirements.lock",
    ];
    run_pip(session, place, pip, &args)?;
    let max = UNPACKED_BYTES_MAX.to_string();
    let args = ["/in/unwheel.py", "/out/wheels", "/out/layers", max.as_str()];
    if session.run(pip.argv(&args), pip.env(Path::new("/out")))? {
        return Ok(());
    }
    let said = place.take("said").unwrap_or_default();
    Err(ResolveError::Tool {
        tool: "unpacking wheels",
        reason: pip::tail(&String::from_utf8_lossy(&said)),
    })
}

fn run_pip(
    session: &Session,
    place: &Workplace,
    pip: &Pip,
    args: &[&str],
) -> Result<(), ResolveError> {
    if session.run(pip.argv(args), pip.env(Path::new("/out")))? {
        return Ok(());
    }
    let mut said = place.take("log").unwrap_or_default();
    said.push(b'\n');
    said.extend(place.take("said").unwrap_or_default());
    Err(pip::failure(
        &String::from_utf8_lossy(&said),
        &session.proxy.seen(),
    ))
}

/// The layer of one package, from the folder that its wheel was unpacked to.
fn layer(place: &Workplace, package: &Locked) -> Result<(String, Vec<u8>), ResolveError> {
    let folder = place.path("out/layers").join(&package.sha256);
    let packed = archive::pack(&folder, &|_| false, &[])?;
    Ok((format!("{} {}", package.name, package.version), packed))
}
