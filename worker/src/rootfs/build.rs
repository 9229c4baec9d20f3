//! From a list to a root file system: beside where it will be, and there by one rename.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    fetch::{FetchError, fetch},
    finish,
    kept::{self, Kept, KeptError},
    list::List,
    unpack::{UnpackError, unpack},
};

/// A root file system cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Not root.
    #[error("a root file system is built by root, to whom its files belong: run it with sudo")]
    NotRoot,
    /// Where it is to be kept cannot be used.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// A package cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A package cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
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
    /// A program of the host's is missing.
    #[error("cannot run {tool}: install it")]
    Tool {
        /// Which.
        tool: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program of the new root failed.
    #[error("{program} of the new root file system fails: {said}")]
    Inside {
        /// Which.
        program: String,
        /// The last that it said.
        said: String,
    },
    /// A task of ours ended by itself.
    #[error("building was cut short")]
    CutShort,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Another builder is at work in the same place.
    Waiting,
    /// So many bytes of a package have come.
    Fetched(u64),
    /// A package is unpacked.
    Unpacked,
    /// Python's library is being compiled.
    Compiling,
    /// Every file is being read once more, for the manifest.
    Sealing,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Built {
    /// Its name: hexadecimal digits of the digest of list and recipe.
    pub digest: String,
    /// The root itself.
    pub root: PathBuf,
    /// False if it was there before.
    pub is_new: bool,
}

/// Builds the root of `list` in the folder `dir`, if it is not there yet, with packages from `mirror` or Debian's own;
/// `watch` hears of each step. Whoever builds at the same time waits, and finds it done.
///
/// # Errors
/// [`BuildError`]; nothing is published then, and what was half built goes with the next build at the latest.
pub async fn build(
    dir: &Path,
    list: &List,
    mirror: Option<&str>,
    watch: &(dyn Fn(Event) + Sync),
) -> Result<Built, BuildError> {
    let kept = Kept::new(dir);
    let digest = list.digest().hex().to_owned();
    let built = |is_new| Built {
        root: kept.root(&digest),
        digest: digest.clone(),
        is_new,
    };
    if kept.has(&digest) {
        return Ok(built(false));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(BuildError::NotRoot);
    }
    let lock = match kept.try_lock()? {
        Some(lock) => lock,
        None => {
            watch(Event::Waiting);
            let kept = kept.clone();
            let waited = tokio::task::spawn_blocking(move || kept.lock());
            waited.await.unwrap_or(Err(KeptError::CutShort))?
        }
    };
    if kept.has(&digest) {
        return Ok(built(false));
    }
    kept.sweep(&lock)?;
    let site = kept.site(&lock, &digest)?;
    let done = raise(&site, list, mirror, watch).await;
    if let Err(error) = done {
        // The next builder tries again.
        drop(fs::remove_dir_all(&site));
        return Err(error);
    }
    kept.publish(&lock, &site, &digest)?;
    Ok(built(true))
}

/// All that is done before it is published, in the folder `site`.
async fn raise(
    site: &Path,
    list: &List,
    mirror: Option<&str>,
    watch: &(dyn Fn(Event) + Sync),
) -> Result<(), BuildError> {
    let (packages, root) = (site.join("packages"), site.join(kept::ROOT));
    for folder in [&packages, &root] {
        fs::create_dir(folder).map_err(failed("make", folder))?;
    }
    fetch(list, mirror, &packages, &|bytes| {
        watch(Event::Fetched(bytes))
    })
    .await?;
    tokio::task::block_in_place(|| {
        for package in &list.packages {
            unpack(&packages.join(&package.sha256), &package.name, &root)?;
            watch(Event::Unpacked);
        }
        fs::remove_dir_all(&packages).map_err(failed("remove", &packages))?;
        finish::complete(&root)?;
        finish::link_libraries(&root)?;
        watch(Event::Compiling);
        finish::compile(&root)?;
        watch(Event::Sealing);
        let path = site.join(kept::LIST);
        fs::write(&path, list.text()).map_err(failed("write", &path))?;
        kept::seal(site)?;
        // A name that is there stands for files that are there, also after a loss of power.
        let folder = File::open(site).map_err(failed("open", site))?;
        rustix::fs::syncfs(folder).map_err(|error| failed("sync", site)(error.into()))
    })
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::File {
        doing,
        path,
        source,
    }
}
