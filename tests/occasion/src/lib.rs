//! Where and when figures were made: every benchmark writes it beside its report, and docs/performance.md shows it above
//! each table.
//!
//! A report `NAME.json` is a list of rows and nothing else; what is said here of it lies in `NAME.machine.json`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a path of a report ends with here instead of `json`.
const EXTENSION: &str = "machine.json";
const DAY: &str = "%Y-%m-%d";
const MINUTE: &str = "%H:%M";

/// One run of a benchmark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Occasion {
    /// Processors.
    pub cpus: usize,
    /// Their name.
    pub cpu: String,
    /// Memory, as the kernel says it.
    pub memory: String,
    /// The kernel's release.
    pub kernel: String,
    /// The commit that was checked out, and whether anything but the documentation differed from it.
    pub commit: String,
    /// Load averages of 1, 5 and 15 minutes when it began: what else the machine did, or had just done.
    pub load: String,
    /// Seconds since 1970 when it began.
    pub begun_s: i64,
    /// The same when it was over.
    pub ended_s: i64,
}

impl Occasion {
    /// A run that begins now.
    #[must_use]
    pub fn begin() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let count = |text: &str| {
            let lines = text.lines();
            lines.filter(|line| line.starts_with("processor")).count()
        };
        let averages = read("/proc/loadavg");
        let averages: Vec<_> = averages.split(' ').take(3).collect();
        Self {
            cpus: count(&processors),
            cpu: value(&processors, "model name"),
            memory: value(&read("/proc/meminfo"), "MemTotal"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit(),
            load: averages.join(", "),
            begun_s: now_s(),
            ended_s: now_s(),
        }
    }

    /// The same run, over now.
    #[must_use]
    pub fn end(self) -> Self {
        Self {
            ended_s: now_s(),
            ..self
        }
    }

    /// Writes `json` to `report`, and beside it that it was made in this run, which is over now.
    ///
    /// # Errors
    /// A file cannot be written; the error names it.
    pub fn write(self, report: &Path, json: &str) -> Result<()> {
        // First, so that no report ever stands beside another one's occasion.
        let beside = beside(report);
        let occasion = serde_json::to_string_pretty(&self.end())?;
        for (path, text) in [(&*beside, &*occasion), (report, json)] {
            fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// When and where `report` was made; `None` if nobody wrote it down.
    ///
    /// # Errors
    /// The file cannot be read, or says something else.
    pub fn of(report: &Path) -> Result<Option<Self>> {
        let path = beside(report);
        if !path.exists() {
            return Ok(None);
        }
        let reading = || format!("reading {}", path.display());
        let text = fs::read_to_string(&path).with_context(reading)?;
        serde_json::from_str(&text).map(Some).with_context(reading)
    }

    /// The line that stands above its table.
    #[must_use]
    pub fn line(&self) -> String {
        let Self {
            cpus,
            cpu,
            memory,
            kernel,
            commit,
            load,
            ..
        } = self;
        let (begun, ended) = (time(self.begun_s), time(self.ended_s));
        let day = begun.format(DAY);
        let until = if begun.date_naive() == ended.date_naive() {
            String::new()
        } else {
            format!("{} ", ended.format(DAY))
        };
        format!(
            "Run of {day}, {} to {until}{} UTC: commit {commit}; {cpus} × {cpu}, {memory} of memory, Linux {kernel}; load (1, 5, 15 \
             minutes) when it began: {load}.",
            begun.format(MINUTE),
            ended.format(MINUTE),
        )
    }
}

/// What is said above a table of which nobody wrote down when and where it was made.
pub const UNKNOWN: &str = "When and where this was measured was not written down.";

/// Where the occasion of `report` is written.
fn beside(report: &Path) -> PathBuf {
    report.with_extension(EXTENSION)
}

/// The value behind `key` in a file of `key : value` lines.
fn value(text: &str, key: &str) -> String {
    text.lines()
        .find(|line| line.starts_with(key))
        .and_then(|line| line.split_once(':'))
        .map_or_else(String::new, |(_key, value)| value.trim().to_owned())
}

/// The commit of this workspace. The benchmarks write figures into docs/ themselves, which therefore do not count.
fn commit() -> String {
    let git = |args: &[&str]| {
        let command = Command::new("git")
            .args(["-C", concat!(env!("CARGO_MANIFEST_DIR"), "/../..")])
            .args(args)
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&command.stdout).trim().to_owned();
        command.status.success().then_some(text)
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs"]);
    if changed.is_some_and(|files| files.is_empty()) {
        commit
    } else {
        format!("{commit} and changes")
    }
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occasion(begun_s: i64, ended_s: i64) -> Occasion {
        Occasion {
            cpus: 2,
            cpu: "A CPU".to_owned(),
            memory: "1 kB".to_owned(),
            kernel: "6.18".to_owned(),
            commit: "abc".to_owned(),
            load: "0.00, 0.10, 0.20".to_owned(),
            begun_s,
            ended_s,
        }
    }

    #[test]
    fn the_line_says_when_and_where() {
        let begun = 1_790_000_000;
        assert_eq!(
            occasion(begun, begun + 600).line(),
            "Run of 2026-09-21, 14:13 to 14:23 UTC: commit abc; 2 × A CPU, 1 kB of memory, Linux 6.18; load (1, 5, 15 \
             minutes) when it began: 0.00, 0.10, 0.20."
        );
        let line = occasion(begun, begun + 86_400).line();
        assert!(line.contains("14:13 to 2026-09-22 14:13 UTC"), "{line}");
    }

    #[test]
    fn a_run_says_of_this_machine_what_the_kernel_says() {
        let run = Occasion::begin();
        assert!(run.cpus > 0 && run.memory.ends_with("kB"), "{run:?}");
        assert_eq!(run.load.split(", ").count(), 3, "{run:?}");
        assert!(!run.kernel.is_empty() && !run.commit.is_empty());
    }

    #[test]
    fn a_report_and_its_occasion_lie_beside_each_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let report = dir.path().join("xdp.json");
        assert_eq!(Occasion::of(&report).expect("nothing there"), None);
        let run = occasion(1, 2);
        run.clone().write(&report, "[]").expect("it is written");
        assert_eq!(fs::read_to_string(&report).expect("the report"), "[]");
        let read = Occasion::of(&report).expect("it is read").expect("one");
        // When it was over is when it was written.
        assert!(read.ended_s > 2);
        assert_eq!(Occasion { ended_s: 2, ..read }, run);
        assert!(dir.path().join("xdp.machine.json").exists());
    }

    #[test]
    fn what_is_no_occasion_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let report = dir.path().join("live.json");
        for text in ["", "[]", "{\"cpus\": 1}"] {
            fs::write(dir.path().join("live.machine.json"), text).expect("written");
            let error = Occasion::of(&report).expect_err(text);
            assert!(format!("{error:#}").contains("live.machine.json"));
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let report = Path::new("/nonexistent/xdp.json");
        let error = occasion(1, 2).write(report, "[]").expect_err("no folder");
        assert!(format!("{error:#}").contains("/nonexistent/xdp"));
    }
}
