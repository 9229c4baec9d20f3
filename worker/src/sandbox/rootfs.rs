//! The file system a handler sees: built in a tmpfs by the sandbox's init, then made its root.
//!
//! What is there: `/usr` of the system that sandboxes run, the host's or a built one, read-only (that is where Python
//! is), the few files of its `/etc` that libraries read, a `/proc` that shows only one's own processes, five device nodes, a private bounded
//! `/tmp`, the Python library at [`LIBRARY`], and [`HANDLER`] and [`LAYERS`], where the function's code and
//! its packages are mounted when the sandbox gets one. Everything but `/tmp` is read-only, nothing is setuid, nothing else of the host is
//! there: no `/sys`, no cgroups, no home directories.

use std::{
    fs,
    net::Ipv4Addr,
    os::{fd::AsFd, unix::fs::symlink},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use serde::{Deserialize, Serialize};

/// Where the function's code is.
pub(super) const HANDLER: &str = "/handler";
/// Where package layers are, each in a directory of its own.
pub(super) const LAYERS: &str = "/layers";
/// The folder that a layer of Node.js packages has.
const MODULES: &str = "node_modules";
/// Where the Python library is.
pub(super) const LIBRARY: &str = "/warmpath";

/// Devices without state or power: `/dev` has these and no others.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// The system's files that libraries read; what it has not is absent here.
const ETC_FROM_SYSTEM: [&str; 4] = ["ld.so.cache", "localtime", "alternatives", "ssl/certs"];
/// Size of the root's own tmpfs: directories, links and small files only.
const ROOT_OPTIONS: &str = "mode=0755,size=256k,nr_inodes=256";
/// Size of the tmpfs at [`LAYERS`]: one directory a layer.
const LAYERS_OPTIONS: &str = "mode=0755,size=64k,nr_inodes=128";
/// Files and directories that fit into `/tmp`.
const TMP_INODES: u32 = 4_096;

const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// A step of building the root that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}")]
pub(super) struct RootError {
    doing: &'static str,
    path: PathBuf,
    source: Errno,
}

fn failed(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> RootError {
    let path = path.as_ref().to_owned();
    move |source| RootError {
        doing,
        path,
        source,
    }
}

fn failed_io(
    doing: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(std::io::Error) -> RootError {
    let path = path.as_ref().to_owned();
    move |error| {
        let source = error
            .raw_os_error()
            .map_or(Errno::UnknownErrno, Errno::from_raw);
        RootError {
            doing,
            path,
            source,
        }
    }
}

/// What a root is built of, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Root {
    /// An empty directory to build on; who builds mounts over it in a mount namespace of its own.
    pub at: PathBuf,
    /// What `/usr` and the like are taken from: `/` for the host's own.
    pub system: PathBuf,
    /// The host directory of the runtimes' libraries.
    pub library: PathBuf,
}

impl Root {
    /// Builds it and makes it the root of this mount namespace. `/tmp` belongs to the host user `uid`; names are asked
    /// of `dns`.
    pub(super) fn enter(&self, uid: u32, dns: &[Ipv4Addr]) -> Result<(), RootError> {
        let at = self.at.as_path();
        // Nothing mounted here may show up on the host.
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .map_err(failed("make private", "/"))?;
        mount(Some("tmpfs"), at, Some("tmpfs"), QUIET, Some(ROOT_OPTIONS))
            .map_err(failed("mount a tmpfs on", at))?;
        usr(at, &self.system)?;
        etc(at, &self.system, dns)?;
        devices(at)?;
        let proc = directory(at, "proc")?;
        mount_proc(&proc)?;
        let tmp = directory(at, "tmp")?;
        let options = format!("mode=0700,uid={uid},gid={uid},size=1m,nr_inodes={TMP_INODES}");
        mount(
            Some("tmpfs"),
            &tmp,
            Some("tmpfs"),
            QUIET,
            Some(options.as_str()),
        )
        .map_err(failed("mount a tmpfs on", &tmp))?;
        bind_read_only(&self.library, &directory(at, LIBRARY)?)?;
        directory(at, HANDLER)?;
        // Not part of the root's own tmpfs, which is read-only by the time that layers come.
        let layers = directory(at, LAYERS)?;
        mount(
            Some("tmpfs"),
            &layers,
            Some("tmpfs"),
            QUIET,
            Some(LAYERS_OPTIONS),
        )
        .map_err(failed("mount a tmpfs on", &layers))?;
        // Node.js looks here for what a function in `/handler` requires.
        let modules = at.join(MODULES);
        symlink(Path::new(LAYERS).join(MODULES), &modules).map_err(failed_io("link", &modules))?;
        read_only(at)?;
        pivot(at)
    }
}

/// Mounts the function's code, a detached mount that the worker made, and gives `/tmp` its size.
pub(super) fn mount_handler(code: impl AsFd, tmp_mb: u32) -> Result<(), RootError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(code, "", rustix::fs::CWD, HANDLER, flags)
        .map_err(|e| failed_io("mount the code on", HANDLER)(e.into()))?;
    read_only(Path::new(HANDLER))?;
    let options = format!("size={tmp_mb}m,nr_inodes={TMP_INODES}");
    mount(
        None::<&str>,
        "/tmp",
        None::<&str>,
        MsFlags::MS_REMOUNT | QUIET,
        Some(options.as_str()),
    )
    .map_err(failed("resize", "/tmp"))
}

/// Mounts package layers, detached mounts that the worker made, each under its name; for good.
pub(super) fn mount_layers<'a>(
    layers: impl Iterator<Item = (&'a str, impl AsFd)>,
) -> Result<(), RootError> {
    for (name, layer) in layers {
        let place = directory(Path::new(LAYERS), name)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(layer, "", rustix::fs::CWD, &place, flags)
            .map_err(|e| failed_io("mount a layer on", &place)(e.into()))?;
        read_only(&place)?;
        let modules = Path::new(LAYERS).join(MODULES);
        if place.join(MODULES).is_dir() && !modules.is_symlink() {
            symlink(Path::new(name).join(MODULES), &modules)
                .map_err(failed_io("link", &modules))?;
        }
    }
    read_only(Path::new(LAYERS))
}

/// A mount of `directory` that is attached nowhere yet, to be handed to a sandbox's init.
pub(super) fn detached(directory: &Path) -> Result<std::os::fd::OwnedFd, std::io::Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(rustix::fs::CWD, directory, flags)?)
}

/// `/usr`, and the links (or directories) of the system that lead into it.
fn usr(at: &Path, system: &Path) -> Result<(), RootError> {
    bind_read_only(&system.join("usr"), &directory(at, "usr")?)?;
    for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
        let from = system.join(name);
        if let Ok(target) = fs::read_link(&from) {
            symlink(&target, at.join(name)).map_err(failed_io("link", at.join(name)))?;
        } else if from.is_dir() {
            bind_read_only(&from, &directory(at, name)?)?;
        }
    }
    Ok(())
}

fn etc(at: &Path, system: &Path, dns: &[Ipv4Addr]) -> Result<(), RootError> {
    let etc = directory(at, "etc")?;
    let servers = dns.iter().map(|server| format!("nameserver {server}\n"));
    let (resolver, hosts) = if dns.is_empty() {
        (String::new(), "files")
    } else {
        (servers.collect(), "files dns")
    };
    let names = format!("passwd: files\ngroup: files\nhosts: {hosts}\n");
    let files = [
        ("passwd", "handler:x:1000:1000::/tmp:/usr/sbin/nologin\n"),
        ("group", "handler:x:1000:\n"),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("nsswitch.conf", &names),
        ("resolv.conf", &resolver),
    ];
    for (name, text) in files {
        fs::write(etc.join(name), text).map_err(failed_io("write", etc.join(name)))?;
    }
    for name in ETC_FROM_SYSTEM {
        let (from, inside) = (system.join("etc").join(name), etc.join(name));
        if from.is_dir() {
            fs::create_dir_all(&inside).map_err(failed_io("make", &inside))?;
        } else if from.exists() {
            fs::write(&inside, "").map_err(failed_io("make", &inside))?;
        } else {
            continue;
        }
        bind_read_only(&from, &inside)?;
    }
    Ok(())
}

fn devices(at: &Path) -> Result<(), RootError> {
    let dev = directory(at, "dev")?;
    for name in DEVICES {
        let (host, inside) = (Path::new("/dev").join(name), dev.join(name));
        fs::write(&inside, "").map_err(failed_io("make", &inside))?;
        bind(&host, &inside)?;
        // Not nodev, or the devices would be of no use.
        let flags =
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(None::<&str>, &inside, None::<&str>, flags, None::<&str>)
            .map_err(failed("restrict", &inside))?;
    }
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        symlink(target, dev.join(link)).map_err(failed_io("link", dev.join(link)))?;
    }
    Ok(())
}

/// Other users' processes are invisible (init is one), and so is everything that is not a process.
fn mount_proc(proc: &Path) -> Result<(), RootError> {
    let flags = QUIET | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(
        Some("proc"),
        proc,
        Some("proc"),
        flags,
        Some("hidepid=invisible,subset=pid"),
    )
    .map_err(failed(
        "mount /proc (Linux 5.8 or later is needed) on",
        proc,
    ))
}

fn directory(at: &Path, name: &str) -> Result<PathBuf, RootError> {
    let path = at.join(name.trim_start_matches('/'));
    fs::create_dir(&path).map_err(failed_io("make", &path))?;
    Ok(path)
}

fn bind(from: &Path, to: &Path) -> Result<(), RootError> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(failed("bind into the sandbox", from))
}

fn bind_read_only(from: &Path, to: &Path) -> Result<(), RootError> {
    bind(from, to)?;
    read_only(to)
}

fn read_only(at: &Path) -> Result<(), RootError> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | QUIET;
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).map_err(failed("make read-only", at))
}

/// pivot_root(2) with both arguments the same: the old root lands on top of the new one, and goes.
fn pivot(at: &Path) -> Result<(), RootError> {
    std::env::set_current_dir(at).map_err(failed_io("enter", at))?;
    rustix::process::pivot_root(".", ".").map_err(|e| failed_io("pivot to", at)(e.into()))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("detach", "the old root"))?;
    std::env::set_current_dir("/").map_err(failed_io("enter", "/"))
}
