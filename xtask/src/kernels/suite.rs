//! The program tests as one binary that can be carried to another kernel.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{initramfs::Guest, lines::Lines, outcome, vm::Saved};
use crate::shell;

/// Where the object and the tests are in a virtual machine.
const OBJECT: &str = "/balancer.o";
const TESTS: &str = "/prog";
/// Read by `tests/prog`'s object.rs and differential.rs.
const OBJECT_VARIABLE: &str = "WARMPATH_EBPF_OBJECT";
const FRAMES_VARIABLE: &str = "WARMPATH_TEST_FRAMES";
/// One test at a time, so that their lines come one by one, and what each printed at the end.
const TEST_ARGS: [&str; 2] = ["--test-threads=1", "--show-output"];

/// The built tests.
#[derive(Debug)]
pub(super) struct Suite {
    binary: PathBuf,
    object: PathBuf,
    /// All tests in it.
    pub(super) names: Vec<String>,
}

impl Suite {
    /// Builds the test binary `prog`; the object has been built.
    pub(super) fn build(root: &Path) -> Result<Self> {
        let args = [
            "test",
            "--release",
            "--package=prog-tests",
            "--features=privileged",
            "--test=prog",
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
            bail!("the program tests do not build");
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let binary = executable(&messages).context("cargo named no test binary `prog`")?;
        let listed = shell::output(&binary.to_string_lossy(), &["--list"]);
        let names = outcome::names(&listed.context("the test binary does not list its tests")?);
        if names.is_empty() {
            bail!("the test binary `prog` holds no test");
        }
        Ok(Self {
            binary,
            object: root.join("target/ebpf/bpfel-unknown-none/release/balancer"),
            names,
        })
    }

    /// The virtual machine that runs them.
    pub(super) fn guest(&self, frames: u64) -> Guest {
        Guest {
            // Some tests make a veth pair, which busybox's `ip` cannot.
            programs: vec![(self.binary.clone(), TESTS), ("ip".into(), "/sbin/ip")],
            files: vec![(self.object.clone(), OBJECT)],
            modules: vec!["veth"],
            script: format!(
                "{OBJECT_VARIABLE}={OBJECT} {FRAMES_VARIABLE}={frames} {TESTS} {}\n",
                TEST_ARGS.join(" ")
            ),
        }
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
            .args(TEST_ARGS)
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

/// The path of the test binary in cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_ours = message.get("target")?.get("name")?.as_str()? == "prog";
        let path = message.get("executable")?.as_str()?;
        is_ours.then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_binary_is_the_one_that_cargo_names() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"prog_tests"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"prog"},"executable":"/t/deps/prog-16d5"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n"
        );
        assert_eq!(
            executable(messages),
            Some(PathBuf::from("/t/deps/prog-16d5"))
        );
        assert_eq!(executable(""), None);
    }
}
