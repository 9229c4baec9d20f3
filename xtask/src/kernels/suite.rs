//! The tests of one floor as one binary that can be carried to another kernel.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    floor::{Floor, OBJECT_VARIABLE},
    initramfs::Guest,
    lines::Lines,
    outcome,
    vm::Saved,
};
use crate::shell;

/// One test at a time, so that their lines come one by one, and what each printed at the end.
const TEST_ARGS: [&str; 2] = ["--test-threads=1", "--show-output"];

/// The built tests.
#[derive(Debug)]
pub(super) struct Suite {
    floor: Floor,
    /// The test binary.
    pub(super) binary: PathBuf,
    /// Other programs that cargo built for it, by the names of their targets.
    pub(super) programs: Vec<(String, PathBuf)>,
    /// The object of the program tests.
    pub(super) object: PathBuf,
    /// What is in the names of the tests that are to run; empty for all.
    only: String,
    /// The names of those.
    pub(super) names: Vec<String>,
}

impl Suite {
    /// Builds the test binary of `floor`; the object has been built if that floor needs it.
    pub(super) fn build(root: &Path, floor: Floor, only: &str) -> Result<Self> {
        let (package, test) = (floor.package(), floor.test());
        let args = [
            "test",
            "--release",
            &format!("--package={package}"),
            "--features=privileged",
            &format!("--test={test}"),
            "--no-run",
        ];
        shell::say(&format!("$ cargo {}", args.join(" ")));
        let output = shell::cargo_command(root)
            .args(args)
            .arg("--message-format=json-render-diagnostics")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("starting cargo")?;
        if !output.status.success() {
            bail!("the {test} tests do not build");
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let mut programs = executables(&messages);
        let at = programs.iter().position(|(name, _)| name == test);
        let at = at.with_context(|| format!("cargo named no test binary `{test}`"))?;
        let (_, binary) = programs.swap_remove(at);
        let listed = shell::output(&binary.to_string_lossy(), &["--list"]);
        let listed = listed.context("the test binary does not list its tests")?;
        let ignored = shell::output(&binary.to_string_lossy(), &["--list", "--ignored"]);
        let ignored = outcome::names(&ignored.unwrap_or_default());
        let mut names = outcome::names(&listed);
        names.retain(|name| name.contains(only) && !ignored.contains(name));
        if names.is_empty() {
            bail!("the test binary `{test}` holds no test with `{only}` in its name");
        }
        Ok(Self {
            floor,
            only: only.to_owned(),
            binary,
            programs,
            object: root.join("target/ebpf/bpfel-unknown-none/release/balancer"),
            names,
        })
    }

    /// What the test binary is called with.
    pub(super) fn args(&self) -> Vec<&str> {
        let only = Some(self.only.as_str()).filter(|only| !only.is_empty());
        TEST_ARGS.into_iter().chain(only).collect()
    }

    /// The virtual machine that runs them.
    pub(super) fn guest(&self, frames: u64) -> Guest {
        self.floor.guest(self, frames)
    }

    /// Runs them on this machine's kernel. The first line is the kernel's release, as in a virtual machine.
    pub(super) fn run_here(
        &self,
        folder: &Path,
        timeout: Duration,
        mut on_line: impl FnMut(&str),
    ) -> Result<i32> {
        let mut output = Saved::create(&folder.join("output.txt"))?;
        let release = shell::output("uname", &["-r"]).context("uname -r fails")?;
        on_line(release.trim());
        let mut command = Command::new(&self.binary);
        command
            .args(self.args())
            .env(OBJECT_VARIABLE, &self.object)
            .stdin(Stdio::null());
        let mut lines = Lines::spawn(command, timeout)?;
        while let Some(line) = lines.next()? {
            on_line(&line);
            output.line(&line)?;
        }
        Ok(lines.finish()?.code().unwrap_or(-1))
    }
}

/// The executables in cargo's messages, by the names of their targets.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let name = message.get("target")?.get("name")?.as_str()?;
        Some((
            name.to_owned(),
            PathBuf::from(message.get("executable")?.as_str()?),
        ))
    };
    messages.lines().filter_map(executable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_those_that_cargo_names() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"prog_tests"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"prog"},"executable":"/t/deps/prog-16d5"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n"
        );
        let found = [("prog".to_owned(), PathBuf::from("/t/deps/prog-16d5"))];
        assert_eq!(executables(messages), found);
        assert!(executables("").is_empty());
    }
}
