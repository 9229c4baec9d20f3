//! Stopping all processes of a group where they stand, letting them go on, and killing them at once.
//!
//! Version 2 freezes without delay, thaws in some tens of microseconds, and kills what is frozen. Version 1
//! takes milliseconds to freeze, and what it froze dies only when it is thawed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::{
    CgroupError,
    files::{read, write_if_present},
};

/// How long version 1 may take; it freezes when no process of the group is in the middle of something.
const FREEZE_TIMEOUT: Duration = Duration::from_millis(200);

/// What pauses one group.
#[derive(Debug)]
pub(super) struct Freezer {
    directory: PathBuf,
    is_v2: bool,
    /// Where the kernel is told; from the first time on, so that a request that has its instance thawed does not wait for
    /// a file to be opened.
    control: OnceLock<File>,
}

impl Freezer {
    /// That of the version 2 group `directory`.
    pub(super) const fn v2(directory: PathBuf) -> Self {
        Self {
            directory,
            is_v2: true,
            control: OnceLock::new(),
        }
    }

    /// That of the version 1 group `directory`.
    pub(super) const fn v1(directory: PathBuf) -> Self {
        Self {
            directory,
            is_v2: false,
            control: OnceLock::new(),
        }
    }

    /// Stops every process of the group. Blocks for some milliseconds with version 1.
    pub(super) fn freeze(&self) -> Result<(), CgroupError> {
        if self.is_v2 {
            return self.tell("1");
        }
        let state = self.control_path();
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        self.tell("FROZEN")?;
        while !is_frozen(&read(&state)?) {
            if Instant::now() >= deadline {
                self.thaw()?;
                return Err(CgroupError::Restless(self.directory.clone()));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    /// Lets them go on.
    pub(super) fn thaw(&self) -> Result<(), CgroupError> {
        self.tell(if self.is_v2 { "0" } else { "THAWED" })
    }

    /// Kills them, frozen or not, where the kernel can do that for a group (Linux 5.14); with version 1, lets
    /// them take the signals that were sent.
    pub(super) fn kill(&self) -> Result<(), CgroupError> {
        if self.is_v2 {
            write_if_present(&self.directory.join("cgroup.kill"), "1")
        } else {
            self.thaw()
        }
    }

    fn control_path(&self) -> PathBuf {
        let name = if self.is_v2 {
            "cgroup.freeze"
        } else {
            "freezer.state"
        };
        self.directory.join(name)
    }

    fn tell(&self, word: &str) -> Result<(), CgroupError> {
        let written = self
            .control()
            .and_then(|control| control.write_all_at(word.as_bytes(), 0));
        written.map_err(|source| CgroupError::File {
            doing: "write",
            path: self.control_path(),
            source,
        })
    }

    fn control(&self) -> io::Result<&File> {
        if let Some(control) = self.control.get() {
            return Ok(control);
        }
        let opened = OpenOptions::new().write(true).open(self.control_path())?;
        Ok(self.control.get_or_init(|| opened))
    }

    /// The group's directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

fn is_frozen(state: &str) -> bool {
    state.trim() == "FROZEN"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups are directories with files, and so is this one.
    fn group(files: &[&str]) -> tempfile::TempDir {
        let group = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(group.path().join(file), "").unwrap();
        }
        group
    }

    #[test]
    fn writes_what_version_2_understands() {
        let group = group(&["cgroup.freeze", "cgroup.kill"]);
        let content = |file| std::fs::read_to_string(group.path().join(file)).unwrap();
        let freezer = Freezer::v2(group.path().to_owned());
        freezer.freeze().unwrap();
        assert_eq!(content("cgroup.freeze"), "1");
        freezer.thaw().unwrap();
        freezer.kill().unwrap();
        assert_eq!(
            (content("cgroup.freeze"), content("cgroup.kill")),
            ("0".to_owned(), "1".to_owned())
        );
    }

    #[test]
    fn a_kernel_without_cgroup_kill_is_no_error_and_a_missing_group_is_one() {
        let group = group(&["cgroup.freeze"]);
        Freezer::v2(group.path().to_owned()).kill().unwrap();
        assert!(!group.path().join("cgroup.kill").exists());
        let gone = Freezer::v1(group.path().join("gone"));
        assert!(gone.freeze().is_err() && gone.thaw().is_err());
    }

    #[test]
    fn knows_a_group_that_is_still_freezing() {
        assert!(is_frozen("FROZEN\n"));
        assert!(!is_frozen("FREEZING\n") && !is_frozen("THAWED\n"));
    }
}
