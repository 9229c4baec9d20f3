//! Removal of everything a run has put on the machine; the same code after success, panic and SIGKILL.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{ROOT, Record, cgroups, exclusive, record::ProcessId};
use crate::{netns, wait};

const DEATH_TIMEOUT: Duration = Duration::from_secs(5);

/// What was removed of a run whose owner was gone.
#[derive(Debug)]
pub struct Removed {
    /// The run's id.
    pub id: String,
    /// Its namespaces.
    pub namespaces: usize,
    /// Its processes that still ran.
    pub processes: usize,
}

/// Removes every run whose owner is no longer alive.
///
/// # Errors
/// When something of it cannot be removed; the record then stays, so that it can be tried again.
pub fn remove_stale() -> Result<Vec<Removed>> {
    let mut removed = Vec::new();
    for path in records()? {
        let record = match Record::load(&path) {
            Ok(record) => record,
            // Another process may have removed it since it was listed; a torn file cannot be, for it is renamed.
            Err(_gone) if !path.exists() => continue,
            Err(error) => return Err(error),
        };
        if !record.owner.is_alive() {
            removed.push(Removed {
                id: record.id.clone(),
                namespaces: record.namespaces.len(),
                processes: record.processes.iter().filter(|p| p.is_alive()).count(),
            });
            remove(&record)?;
        }
    }
    Ok(removed)
}

fn records() -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(ROOT) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("listing {ROOT}")),
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_record(path))
        .collect())
}

/// Whether `path` is named as a run's record, `wp<hex>n<number>.json`: a balancer that is installed on this
/// machine keeps its own files in the same directory.
fn is_record(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    name.strip_prefix("wp")
        .and_then(|rest| rest.strip_suffix(".json"))
        .and_then(|id| id.split_once('n'))
        .is_some_and(|(process, number)| {
            u32::from_str_radix(process, 16).is_ok() && number.parse::<u32>().is_ok()
        })
}

/// Removes what `record` lists: processes first, because they hold everything else.
pub(super) fn remove(record: &Record) -> Result<()> {
    end_processes(&record.processes)?;
    cgroups::remove(&record.id)?;
    let (dir, data_dir) = (record.dir(), record.data_dir());
    unmount_below(&[&dir, &data_dir])?;
    let _lock = exclusive()?;
    for name in &record.namespaces {
        netns::remove(name)?;
    }
    remove_if_there(fs::remove_dir_all(&data_dir), &data_dir)?;
    remove_if_there(fs::remove_dir_all(&dir), &dir)?;
    let path = record.path();
    remove_if_there(fs::remove_file(&path), &path)?;
    netns::remove_dir_if_ours()?;
    // Fails while another run has its record there, which is right.
    if fs::remove_dir(ROOT).is_err() {
        tracing::debug!("{ROOT} stays: other runs use it");
    }
    Ok(())
}

pub(crate) fn remove_if_there(result: io::Result<()>, path: &Path) -> Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn end_processes(processes: &[ProcessId]) -> Result<()> {
    for process in processes.iter().filter(|process| process.is_alive()) {
        wait::until("a process of ours to die", DEATH_TIMEOUT, || {
            // It may be gone between the look and the signal: the next look tells.
            let _gone = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            Ok((!process.is_alive()).then_some(()))
        })
        .with_context(|| format!("killing process {}", process.pid))?;
    }
    Ok(())
}

/// Unmounts everything at or below `dirs`, the innermost first.
fn unmount_below(dirs: &[&Path]) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| dirs.iter().any(|dir| point.starts_with(dir)))
        .collect();
    points.reverse();
    for point in points {
        match umount2(&point, MntFlags::MNT_DETACH) {
            // Somebody was faster.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("unmounting {}", point.display()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_balancers_state_is_no_record() {
        let is_record = |name: &str| is_record(&Path::new(ROOT).join(name));
        assert!(is_record("wp2af2n0.json"));
        assert!(!is_record("balancer.state.json"));
        assert!(!is_record("wp2af2n0"));
        assert!(!is_record("wpn.json"));
    }
}
