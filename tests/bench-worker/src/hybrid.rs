//! What crun needs of a host with both versions of control groups: none of version 2's controllers.
//!
//! A controller belongs to one hierarchy of the machine. Mounted as version 1 it leaves version 2, and comes back when
//! that mount and the groups in it are gone. The mounts here are in a mount namespace of this process, and go with it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use testbed::wait;

/// Version 2 beside version 1.
const UNIFIED: &str = "/sys/fs/cgroup/unified/cgroup.controllers";
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);
const NONE: Option<&str> = None;

/// Makes mounts of this process its own. To be called while it has one thread.
pub(crate) fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).context("keeping mounts to ourselves")
}

/// Controllers taken out of version 2, until it is dropped.
#[derive(Debug)]
pub(crate) struct Borrowed(Vec<(String, PathBuf)>);

impl Borrowed {
    /// Takes them all out; `dir` is for the mount points.
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        let mut borrowed = Self(Vec::new());
        for name in fs::read_to_string(UNIFIED)
            .unwrap_or_default()
            .split_whitespace()
        {
            let point = dir.join(name);
            fs::create_dir_all(&point).with_context(|| format!("making {}", point.display()))?;
            as_version_1(name, &point)?;
            borrowed.0.push((name.to_owned(), point));
        }
        Ok(borrowed)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        for (name, point) in &self.0 {
            // A group that was removed a moment ago keeps the hierarchy: then it is mounted and unmounted once more.
            let what = format!("the controller {name} to be back in version 2");
            let back = wait::until(&what, RETURN_TIMEOUT, || {
                umount2(point, MntFlags::empty()).context("unmounting")?;
                let now = fs::read_to_string(UNIFIED)?;
                if now.split_whitespace().any(|other| other == name) {
                    return Ok(Some(()));
                }
                as_version_1(name, point).map(|()| None)
            });
            if let Err(error) = back {
                tracing::warn!("{error:#}");
            }
        }
    }
}

fn as_version_1(controller: &str, point: &Path) -> Result<()> {
    let mounted = mount(
        Some("none"),
        point,
        Some("cgroup"),
        MsFlags::empty(),
        Some(controller),
    );
    mounted.with_context(|| format!("mounting the controller {controller} as version 1"))
}
