//! The BPF file system that pins live on: found, or mounted by us and then marked as ours.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use thiserror::Error;

/// The mount's source, as `/proc/self/mountinfo` shows it: says that we made the mount.
const OUR_SOURCE: &str = "warmpath";

/// Why there is no place to pin to.
#[derive(Debug, Error)]
pub enum BpffsError {
    /// The directory cannot be made.
    #[error("cannot make the pin directory {path}; run as root, or choose another pin_path")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file system cannot be asked what it is.
    #[error("cannot look at the pin directory {path}")]
    Statfs {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// Mounting failed.
    #[error(
        "cannot mount a BPF file system at {path}; run as root, or mount one there by `mount -t bpf bpf {path}`"
    )]
    Mount {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// Unmounting failed.
    #[error("cannot unmount the BPF file system at {path}")]
    Unmount {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
}

/// Makes sure that `pin_path` is a directory on a BPF file system. Returns whether this call mounted one there.
pub(super) fn ensure(pin_path: &Path) -> Result<bool, BpffsError> {
    fs::create_dir_all(pin_path).map_err(|source| BpffsError::Directory {
        path: pin_path.to_owned(),
        source,
    })?;
    if is_bpffs(pin_path)? {
        return Ok(false);
    }
    mount(
        Some(OUR_SOURCE),
        pin_path,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|source| BpffsError::Mount {
        path: pin_path.to_owned(),
        source,
    })?;
    Ok(true)
}

/// Whether `path` lies on a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> Result<bool, BpffsError> {
    let found = statfs(path).map_err(|source| BpffsError::Statfs {
        path: path.to_owned(),
        source,
    })?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}

/// The same for a path that may not exist yet: the nearest folder above it answers. None if that cannot be asked.
#[must_use]
pub fn has_bpffs(path: &Path) -> Option<bool> {
    path.ancestors()
        .find(|path| path.exists())
        .and_then(|path| is_bpffs(path).ok())
}

/// Unmounts the file system at `pin_path` if [`ensure`] of any process mounted it. Returns whether it did.
pub(super) fn unmount_if_ours(pin_path: &Path) -> Result<bool, BpffsError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !is_our_mount(&mounts, pin_path) {
        return Ok(false);
    }
    umount2(pin_path, MntFlags::MNT_DETACH).map_err(|source| BpffsError::Unmount {
        path: pin_path.to_owned(),
        source,
    })?;
    Ok(true)
}

/// Whether a line of `mountinfo` (proc_pid_mountinfo(5)) says that we mounted a BPF file system at `path`.
fn is_our_mount(mountinfo: &str, path: &Path) -> bool {
    mountinfo.lines().any(|line| {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            return false;
        };
        let mut filesystem = filesystem.split(' ');
        mount.split(' ').nth(4).map(Path::new) == Some(path)
            && filesystem.next() == Some("bpf")
            && filesystem.next() == Some(OUR_SOURCE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mount_is_known_by_its_source() {
        let mounts = "36 35 98:0 / /run/wp/bpf rw,noatime master:1 - bpf warmpath rw,mode=700\n\
                      37 35 98:0 / /sys/fs/bpf rw - bpf bpf rw\n";
        assert!(is_our_mount(mounts, Path::new("/run/wp/bpf")));
        assert!(!is_our_mount(mounts, Path::new("/sys/fs/bpf")));
        assert!(!is_our_mount(mounts, Path::new("/run/wp")));
    }

    #[test]
    fn a_plain_directory_is_not_a_bpf_file_system() {
        assert!(!is_bpffs(Path::new("/proc")).unwrap());
    }
}
