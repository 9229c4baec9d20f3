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
    outcome::{self, NotRun},
    vm::Saved,
};
use crate::{demo, shell, test::PRIVILEGED_FEATURES};

/// One test at a time, so that their lines come one by one, and what each printed at the end.
const TEST_ARGS: [&str; 2] = ["--test-threads=1", "--show-output"];

/// Which tests of a floor are to run, by what is in their names.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Wanted {
    /// Only tests with this in their names; may be given more than once.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// No tests with this in their names; may be given more than once.
    #[arg(long, value_name = "TEXT")]
    skip: Vec<String>,
}

impl Wanted {
    fn wants(&self, name: &str) -> bool {
        let has = |text: &String| name.contains(text);
        (self.only.is_empty() || self.only.iter().any(has)) && !self.skip.iter().any(has)
    }
}

/// Where tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    /// On this machine's own kernel.
    Own,
    /// In an emulated one, which cannot run what [`Floor::left_out`] names.
    Emulated,
}

/// The built tests.
#[derive(Debug)]
pub(super) struct Suite {
    floor: Floor,
    /// The test binary.
    pub(super) binary: PathBuf,
    /// Other programs that cargo built for it, by the names of their targets.
    pub(super) programs: Vec<(String, PathBuf)>,
    /// Cargo's folder of what can be made again.
    pub(super) target: PathBuf,
    /// The object of the program tests.
    pub(super) object: PathBuf,
    /// Which of its tests are to run.
    wanted: Wanted,
    /// The names of those.
    names: Vec<String>,
}

impl Suite {
    /// Builds the test binary of `floor`; what [`Floor::prepare`] makes is there.
    pub(super) fn build(root: &Path, floor: Floor, wanted: &Wanted) -> Result<Self> {
        let test = floor.test();
        let args = [
            "test",
            "--release",
            // One package alone would want its dependencies with other features than `cargo xtask test` has built.
            "--workspace",
            "--features",
            PRIVILEGED_FEATURES,
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
        for (left_out, _) in floor.left_out() {
            if !names.iter().any(|name| name == left_out) {
                bail!("{left_out} is to be left out of `{test}`, which holds no such test");
            }
        }
        names.retain(|name| wanted.wants(name) && !ignored.contains(name));
        if names.is_empty() {
            bail!("the test binary `{test}` holds no test that was asked for: {wanted:?}");
        }
        Ok(Self {
            floor,
            wanted: wanted.clone(),
            binary,
            programs,
            target: demo::target(root),
            object: root.join("target/ebpf/bpfel-unknown-none/release/balancer"),
            names,
        })
    }

    /// The tests that are to run on `machine`.
    pub(super) fn names(&self, machine: Machine) -> Vec<String> {
        let left_out = self.left_out(machine);
        let mut names = self.names.clone();
        names.retain(|name| left_out.iter().all(|it| it.test != *name));
        names
    }

    /// Those that were asked for and cannot run on `machine`, each with the reason.
    pub(super) fn left_out(&self, machine: Machine) -> Vec<NotRun> {
        let all = match machine {
            Machine::Own => &[],
            Machine::Emulated => self.floor.left_out(),
        };
        let asked = all
            .iter()
            .filter(|(test, _)| self.names.iter().any(|name| name == test));
        asked
            .map(|(test, reason)| NotRun {
                test: (*test).to_owned(),
                reason: (*reason).to_owned(),
            })
            .collect()
    }

    /// What the test binary is called with.
    pub(super) fn args(&self, machine: Machine) -> Vec<String> {
        let mut args = TEST_ARGS.map(str::to_owned).to_vec();
        args.extend(self.wanted.only.iter().cloned());
        let left_out = self.left_out(machine).into_iter().map(|it| it.test);
        for text in self.wanted.skip.iter().cloned().chain(left_out) {
            args.extend(["--skip".to_owned(), text]);
        }
        args
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
            .args(self.args(Machine::Own))
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
    fn tests_are_asked_for_by_parts_of_their_names() {
        let wants = |only: &[&str], skip: &[&str], name| {
            let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
            let (only, skip) = (owned(only), owned(skip));
            Wanted { only, skip }.wants(name)
        };
        assert!(wants(&[], &[], "escape::files::a"));
        assert!(wants(&["logs", "files"], &[], "escape::files::a"));
        assert!(!wants(&["logs"], &[], "escape::files::a"));
        assert!(!wants(&["files"], &["escape"], "escape::files::a"));
    }

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
