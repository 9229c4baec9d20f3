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

/// Tests that need root in binaries that hold others too, which run without: by binary and name. If their feature is lost, the
/// binary is as green as ever; so each of them must have run.
const PRIVILEGED_TESTS: &[(&str, &str)] = &[
    (
        "traffic",
        "loss::tests::a_hundred_changes_and_ten_replacements_lose_no_packet",
    ),
    (
        "bench",
        "presented::each_case_presents_the_flows_that_it_claims",
    ),
    (
        "bench",
        "presented::checksums_are_right_where_they_are_asked_for",
    ),
    (
        "bench",
        "presented::what_the_program_under_test_does_to_the_length_is_undone",
    ),
];

/// The features that turn those binaries and tests on.
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
    let mut args = vec!["test", "--release", "--workspace"];
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
        args.extend(["--features", PRIVILEGED_FEATURES]);
        // The tests' own build makes the binaries that they start: by another command their libraries would be built once
        // more, as what tests depend on asks for more features of what both use.
        shell::cargo(root, &[&args[..], &["--tests", "--no-run"]].concat())?;
        rootfs::build(root)?;
    }
    let mut tally = Tally::default();
    // All but the examples, which are benchmarks.
    for targets in ["--tests", "--doc"] {
        let args = [&args[..], &[targets, "--no-fail-fast"]].concat();
        run_cargo(root, &args, &mut tally)?;
    }
    tally.finish(floors);
    for complaint in &tally.complaints {
        shell::say(complaint);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} passed, {} failed", tally.passed, tally.failed)
        .context("printing the result")?;
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_cargo(root: &Path, args: &[&str], tally: &mut Tally) -> Result<()> {
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
    let failed = tally.failed;
    let mut out = std::io::stdout();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("reading the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(out, "{line}").context("passing the tests' output on")?;
        tally.read(&line);
    }
    let status = child.wait().context("waiting for cargo test")?;
    tally.end(status.success(), failed);
    Ok(())
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
    /// Those of [`PRIVILEGED_TESTS`] that came to an end.
    privileged: Vec<&'static (&'static str, &'static str)>,
    complaints: Vec<String>,
}

impl Tally {
    fn read(&mut self, line: &str) {
        if let Some(name) = running(line) {
            name.clone_into(&mut self.current);
        } else if let Some(test) = ended(line) {
            let is_it = |(binary, name): &&(&str, &str)| *binary == self.current && *name == test;
            self.privileged
                .extend(PRIVILEGED_TESTS.iter().filter(is_it));
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

    /// What the lines of one command do not show: a binary that died before its result. `failed` had failed before it.
    fn end(&mut self, success: bool, failed: u64) {
        if !success && self.failed == failed {
            self.fail("cargo test failed without a failed test: see above".to_owned());
        }
    }

    /// What all of them do not show: a floor that ran nothing.
    fn finish(&mut self, floors: Floors) {
        if floors == Floors::Unprivileged {
            return;
        }
        for floor in PRIVILEGED_FLOORS {
            if !self.ran.iter().any(|name| name == floor) {
                self.fail(format!("the floor `{floor}` ran no test"));
            }
        }
        for test in PRIVILEGED_TESTS {
            if !self.privileged.contains(&test) {
                let (binary, name) = test;
                self.fail(format!("`{name}` of `{binary}` did not run"));
            }
        }
    }

    fn fail(&mut self, complaint: String) {
        self.failed += 1;
        self.complaints.push(complaint);
    }
}

/// The test in libtest's `test <name> ... ok`, passed or failed; one that is ignored did not run.
fn ended(line: &str) -> Option<&str> {
    let (name, fate) = line.strip_prefix("test ")?.split_once(" ... ")?;
    (fate == "ok" || fate == "FAILED").then_some(name)
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
        tally.finish(Floors::All);
        let missing = PRIVILEGED_FLOORS.len() + PRIVILEGED_TESTS.len() - 1;
        assert_eq!(tally.failed, 2 + missing as u64);
    }

    /// What cargo prints if all floors and all tests that need root ran; `fate` of the named one.
    fn whole(test: &str, fate: &str) -> String {
        let mut output = String::new();
        let mut run = |binary: &str, lines: &str| {
            output.push_str(&format!(
                "     Running unittests src/main.rs (target/release/deps/{binary}-0123)\n{lines}\
                 test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n"
            ));
        };
        for floor in PRIVILEGED_FLOORS {
            run(floor, "");
        }
        for (binary, name) in PRIVILEGED_TESTS {
            let fate = if *name == test { fate } else { "ok" };
            run(binary, &format!("test {name} ... {fate}\n"));
        }
        output
    }

    #[test]
    fn a_privileged_test_must_have_run_in_its_own_binary() {
        let mut all = tally(&whole("", "ok"));
        all.finish(Floors::All);
        assert_eq!(all.failed, 0, "{:?}", all.complaints);
        for (binary, name) in PRIVILEGED_TESTS {
            // Compiled out, and its binary's other tests are there; ignored; and one of that name elsewhere.
            let out = whole(name, "ok").replace(&format!("test {name} ... ok\n"), "");
            let ignored = whole(name, "ignored, needs root");
            let elsewhere = whole(name, "ok").replace(&format!("deps/{binary}-"), "deps/other-");
            for output in [out, ignored, elsewhere] {
                let mut tally = tally(&output);
                tally.finish(Floors::All);
                let complaint = format!("`{name}` of `{binary}` did not run");
                assert!(tally.failed > 0 && tally.complaints.contains(&complaint));
            }
            let mut unprivileged = tally("");
            unprivileged.finish(Floors::Unprivileged);
            assert_eq!(unprivileged.failed, 0);
        }
    }

    /// A test of another name is one that never runs.
    #[test]
    fn privileged_tests_are_those_of_the_sources() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
        for (binary, name) in PRIVILEGED_TESTS {
            let mut path: Vec<_> = name.split("::").collect();
            let function = path.pop().unwrap_or_default();
            let module = path.first().copied().unwrap_or_default();
            let source = tests.join(binary).join("src").join(module);
            let source = [source.with_extension("rs"), source.join("mod.rs")];
            let text: String = source.iter().flat_map(std::fs::read_to_string).collect();
            assert!(text.contains(&format!("fn {function}()")), "{name}");
        }
    }

    #[test]
    fn a_binary_that_dies_without_a_result_is_a_failure() {
        let mut tally = Tally::default();
        tally.end(true, 0);
        assert_eq!((tally.passed, tally.failed), (0, 0));
        tally.end(false, 0);
        assert_eq!((tally.passed, tally.failed), (0, 1));
        tally.failed = 3;
        tally.end(false, 1);
        assert_eq!(tally.failed, 3, "those that failed are why");
    }
}
