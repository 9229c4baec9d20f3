//! The files and directories of cgroups: read, written, removed.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::CgroupError;

/// A group stays busy for a moment after its last process ended.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Removes the groups in `directory`, after ending what runs in them: what a killed worker left.
pub(super) fn remove_children(directory: &Path) -> Result<(), CgroupError> {
    let entries = std::fs::read_dir(directory).map_err(|source| CgroupError::File {
        doing: "list",
        path: directory.to_owned(),
        source,
    })?;
    for child in entries.flatten().filter(|entry| entry.path().is_dir()) {
        let processes = read(&child.path().join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid)
                && let Err(error) = rustix::process::kill_process(pid, Signal::KILL)
            {
                tracing::debug!(%error, "it ended by itself, as its worker did");
            }
        }
        // A paused one dies when it is thawed, where version 1 paused it; version 2 kills as it is.
        drop(write_if_present(
            &child.path().join("freezer.state"),
            "THAWED",
        ));
        remove(&child.path())?;
    }
    Ok(())
}

/// `rmdir`, patient with the moment between a process's end and its group's being empty.
pub(super) fn remove(directory: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + REMOVE_TIMEOUT;
    loop {
        match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(source) => {
                return Err(CgroupError::File {
                    doing: "remove",
                    path: directory.to_owned(),
                    source,
                });
            }
        }
    }
}

/// The whole of a file.
pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|source| CgroupError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })
}

/// Writes a value into a file.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    std::fs::write(path, value).map_err(|source| CgroupError::File {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

/// The same where this kernel has the file.
pub(super) fn write_if_present(path: &Path, value: &str) -> Result<(), CgroupError> {
    if path.exists() {
        write(path, value)
    } else {
        Ok(())
    }
}
