//! What the program tests said on one kernel: read from libtest's own output, and held against the list of all
//! tests, so that one which did not run is a failure and not a gap.

use std::collections::BTreeMap;

use serde::Serialize;

/// What the verifier made of one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Verified {
    pub(crate) program: String,
    /// Instructions that the verifier walked.
    pub(crate) verified: u64,
    /// Instructions of the program as the kernel holds it.
    pub(crate) translated: u64,
}

/// A test that was not run on a kernel, and counts neither as passed nor as failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NotRun {
    pub(crate) test: String,
    pub(crate) reason: String,
}

/// The result on one kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// What was asked for: `6.1`, `6.12` or `host`.
    pub(crate) kernel: String,
    /// What `uname -r` says there.
    pub(crate) release: String,
    pub(crate) passed: usize,
    /// Tests that failed, or did not run.
    pub(crate) failed: Vec<String>,
    /// Tests that cannot run there.
    pub(crate) not_run: Vec<NotRun>,
    pub(crate) programs: Vec<Verified>,
    /// Frames that the differential test compared.
    pub(crate) frames: u64,
    pub(crate) seconds: f64,
    /// Why the run as a whole came to nothing, if it did.
    pub(crate) error: Option<String>,
}

impl Outcome {
    /// Whether the kernel may be called supported.
    pub(crate) fn is_good(&self) -> bool {
        self.error.is_none() && self.failed.is_empty() && self.passed > 0
    }
}

/// Reads the output of a run.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    results: BTreeMap<String, bool>,
    /// What each test printed.
    printed: BTreeMap<String, String>,
    current: Option<String>,
    programs: Vec<Verified>,
    frames: u64,
}

impl Reader {
    /// Takes the next line; returns the test's name and fate if the line tells one.
    pub(crate) fn line(&mut self, line: &str) -> Option<(String, bool)> {
        if let Some((name, passed)) = result(line) {
            self.results.insert(name.to_owned(), passed);
            return Some((name.to_owned(), passed));
        }
        if let Some(name) = section(line) {
            self.current = Some(name.to_owned());
        } else if matches!(line, "successes:" | "failures:") {
            self.current = None;
        } else if let Some(current) = &self.current {
            let text = self.printed.entry(current.clone()).or_default();
            text.push_str(line);
            text.push('\n');
            self.programs.extend(verified(line));
            if let Some(frames) = line.strip_prefix("frames=") {
                self.frames = frames.parse().unwrap_or_default();
            }
        }
        None
    }

    /// What each test printed, by name.
    pub(crate) fn printed(&self) -> &BTreeMap<String, String> {
        &self.printed
    }

    /// The first test that failed, and what it printed. A program that does not load fails them all.
    pub(crate) fn first_failure(&self) -> Option<(&str, &str)> {
        let (test, _) = self.results.iter().find(|(_, passed)| !**passed)?;
        let text = self.printed.get(test).map_or("", String::as_str);
        Some((test, text))
    }

    /// The outcome, when `all` are the tests that should have run.
    pub(crate) fn finish(self, all: &[String]) -> Outcome {
        let failed = all
            .iter()
            .filter_map(|name| match self.results.get(name) {
                Some(true) => None,
                Some(false) => Some(name.clone()),
                None => Some(format!("{name} (did not run)")),
            })
            .collect();
        Outcome {
            passed: self.results.values().filter(|passed| **passed).count(),
            failed,
            programs: self.programs,
            frames: self.frames,
            ..Outcome::default()
        }
    }
}

/// `test NAME ... ok`, or `FAILED`. `ignored` is neither: it is a test that did not run.
fn result(line: &str) -> Option<(&str, bool)> {
    let (name, fate) = line.strip_prefix("test ")?.split_once(" ... ")?;
    match fate {
        "ok" => Some((name, true)),
        "FAILED" => Some((name, false)),
        _ => None,
    }
}

/// `---- NAME stdout ----`.
fn section(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// `PROGRAM: N verified, M translated`, as `tests/prog/budget.rs` prints it.
fn verified(line: &str) -> Option<Verified> {
    let (program, rest) = line.split_once(": ")?;
    let (verified, translated) = rest
        .strip_suffix(" translated")?
        .split_once(" verified, ")?;
    Some(Verified {
        program: program.to_owned(),
        verified: verified.parse().ok()?,
        translated: translated.parse().ok()?,
    })
}

/// The names in what `--list` prints: `NAME: test`.
pub(crate) fn names(listed: &str) -> Vec<String> {
    listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test").map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded on 6.1, shortened.
    const OUTPUT: &str = "\
6.1.0-56-cloud-amd64

running 3 tests
test budget::programs_stay_within_their_verifier_budget ... FAILED
test differential::agree ... ok
test drop::drops_bad_udp ... ok

successes:

---- differential::agree stdout ----
WARMPATH_TEST_SEED=7
frames=1050000

successes:
    differential::agree
    drop::drops_bad_udp

failures:

---- budget::programs_stay_within_their_verifier_budget stdout ----
balancer: 13782 verified, 2003 translated
balancer: 13782 instructions verified

failures:
    budget::programs_stay_within_their_verifier_budget

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 60.01s
";

    fn read(all: &[&str]) -> (Outcome, BTreeMap<String, String>) {
        let mut reader = Reader::default();
        for line in OUTPUT.lines() {
            reader.line(line);
        }
        let printed = reader.printed().clone();
        let (test, text) = reader.first_failure().unwrap();
        assert_eq!(test, "budget::programs_stay_within_their_verifier_budget");
        assert!(text.contains("13782 instructions verified"));
        let all: Vec<_> = all.iter().map(|name| (*name).to_owned()).collect();
        (reader.finish(&all), printed)
    }

    #[test]
    fn results_figures_and_what_each_test_printed_are_read() {
        let (outcome, printed) = read(&[
            "budget::programs_stay_within_their_verifier_budget",
            "differential::agree",
            "drop::drops_bad_udp",
        ]);
        assert_eq!(outcome.passed, 2);
        assert_eq!(
            outcome.failed,
            ["budget::programs_stay_within_their_verifier_budget"]
        );
        assert_eq!(outcome.frames, 1_050_000);
        assert_eq!(
            outcome.programs,
            [Verified {
                program: "balancer".to_owned(),
                verified: 13_782,
                translated: 2_003
            }]
        );
        assert!(printed["differential::agree"].starts_with("WARMPATH_TEST_SEED=7\n"));
        assert!(!outcome.is_good());
    }

    #[test]
    fn a_test_that_did_not_run_is_a_failure() {
        let (outcome, _) = read(&["drop::drops_bad_udp", "pass::passes"]);
        assert_eq!(outcome.failed, ["pass::passes (did not run)"]);
        assert_eq!(result("test pass::passes ... ignored"), None);
    }

    #[test]
    fn the_list_of_all_tests_is_libtests_own() {
        assert_eq!(
            names("a::b: test\nc: test\nd: benchmark\n\n2 tests, 1 benchmark\n"),
            ["a::b", "c"]
        );
    }
}
