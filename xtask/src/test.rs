//! `cargo xtask test`: every floor in one profile, and one plain line at the end.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{build_ebpf, demo, rootfs, setup, shell, wheels};

/// The test binaries that need root. A run that leaves one out has failed, whatever the others say.
const PRIVILEGED_FLOORS: &[&str] = &["prog", "netns", "sandbox", "storage", "platform", "kills"];

/// The features that turn those binaries on.
pub(crate) const PRIVILEGED_FEATURES: &str = "tests/privileged,prog-tests/privileged,bench/privileged,traffic/privileged,\
     bench-worker/privileged";

/// Which floors to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floors {
    /// All; needs root.
    All,
    /// Those that need neither root nor the eBPF tool chain.
    Unprivileged,
}

/// Runs the tests and prints `N passed, M failed`.
pub(crate) fn run(root: &Path, floors: Floors) -> Result<ExitCode> {
    let mut args = vec!["test", "--release", "--workspace", "--no-fail-fast"];
    if floors == Floors::All {
        if !shell::is_root() {
            bail!(
                "the tests of network, sandbox and platform need root: run as root, or `cargo xtask test \
                 --unprivileged` for the others"
            );
        }
        setup::run(setup::Mode::Install)?;
        wheels::fetch(root)?;
        build_ebpf::build_ebpf(root)?;
        demo::build(root)?;
        rootfs::build(root)?;
        args.extend(["--features", PRIVILEGED_FEATURES]);
    }
    let tally = run_cargo(root, &args, floors)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} passed, {} failed", tally.passed, tally.failed)
        .context("printing the result")?;
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_cargo(root: &Path, args: &[&str], floors: Floors) -> Result<Tally> {
    shell::say(&format!("$ cargo {}", args.join(" ")));
    // One pipe for both streams keeps the name of a test binary and its result in order.
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let mut command = shell::cargo_command(root);
    command
        .args(args)
        .env("WARMPATH_BIN", demo::binary(root, "warmpath"))
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("duplicating a pipe")?)
        .stderr(writer);
    let mut child = command.spawn().context("starting cargo test")?;
    // Our copies of the writing end go with the command, or the reader would never see the end.
    drop(command);
    let mut tally = Tally::default();
    let mut out = std::io::stdout();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("reading the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(out, "{line}").context("passing the tests' output on")?;
        tally.read(&line);
    }
    let status = child.wait().context("waiting for cargo test")?;
    tally.finish(status.success(), floors);
    for complaint in &tally.complaints {
        shell::say(complaint);
    }
    Ok(tally)
}

/// The sum of all `test result:` lines.
#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    /// The test binary whose output is being read.
    current: String,
    /// Binaries that ran at least one test.
    ran: Vec<String>,
    complaints: Vec<String>,
}

impl Tally {
    fn read(&mut self, line: &str) {
        if let Some(name) = running(line) {
            name.clone_into(&mut self.current);
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let passed = number_before(rest, " passed");
            let failed = number_before(rest, " failed");
            self.passed += passed;
            self.failed += failed;
            if passed + failed > 0 {
                self.ran.push(self.current.clone());
            }
        }
    }

    /// What the lines do not show: a binary that died before its result, a floor that ran nothing.
    fn finish(&mut self, success: bool, floors: Floors) {
        if !success && self.failed == 0 {
            self.failed += 1;
            self.complaints
                .push("cargo test failed without a failed test: see above".to_owned());
        }
        if floors == Floors::All {
            for floor in PRIVILEGED_FLOORS {
                if !self.ran.iter().any(|name| name == floor) {
                    self.failed += 1;
                    self.complaints
                        .push(format!("the floor `{floor}` ran no test"));
                }
            }
        }
    }
}

/// The name of the test binary in cargo's `Running … (target/release/deps/<name>-<hash>)`.
fn running(line: &str) -> Option<&str> {
    let (_, path) = line
        .trim_start()
        .strip_prefix("Running ")?
        .rsplit_once('(')?;
    let file = path.trim_end_matches(')').rsplit('/').next()?;
    file.rsplit_once('-').map(|(name, _hash)| name)
}

fn number_before(text: &str, word: &str) -> u64 {
    let Some(end) = text.find(word) else {
        return 0;
    };
    let digits = text[..end].rsplit(' ').next().unwrap_or_default();
    digits.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs (target/release/deps/db-0123)
test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
     Running prog/main.rs (target/release/deps/prog-4567)
test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn sums_the_results_of_all_binaries() {
        let tally = tally(OUTPUT);
        assert_eq!((tally.passed, tally.failed), (15, 2));
        assert_eq!(tally.ran, ["db", "prog"]);
    }

    #[test]
    fn a_privileged_floor_that_did_not_run_is_a_failure() {
        let mut tally = tally(OUTPUT);
        tally.finish(false, Floors::All);
        let missing = PRIVILEGED_FLOORS.len() as u64 - 1;
        assert_eq!(tally.failed, 2 + missing);
    }

    #[test]
    fn a_binary_that_dies_without_a_result_is_a_failure() {
        let mut tally = Tally::default();
        tally.finish(false, Floors::Unprivileged);
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }
}
