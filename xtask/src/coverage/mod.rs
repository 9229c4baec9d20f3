//! `cargo xtask coverage`: which lines of the data plane's stages the tests of the host build reach.
//!
//! rustc counts (`-C instrument-coverage`), the LLVM tools read the counts; they must be of rustc's own LLVM, whose format
//! they share. Builds into a folder of its own, so that nothing else is built again.

mod lcov;
mod tools;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use lcov::Coverage;
use serde::Serialize;
use tools::Tools;

use crate::shell;

/// The stages, as folders of `xdp-balancer/src`.
const STAGES: [&str; 4] = ["parse", "police", "route", "forward"];
/// Percent of its lines that the tests must reach, of each stage.
const FLOOR: f64 = 95.0;
const TARGET_DIR: &str = "target/coverage";

/// Measures the line coverage of the data plane.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Also print the lines that no test reaches.
    #[arg(long)]
    missed: bool,
}

/// The coverage of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Stage {
    stage: &'static str,
    lines: usize,
    covered: usize,
    percent: f64,
}

/// Builds, runs, and reports; fails below the floor.
pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let tools = Tools::find()?;
    let folder = root.join(TARGET_DIR);
    let binary = build(root, &folder)?;
    let coverage = measure(&tools, root, &folder, &binary)?;
    let stages = STAGES.map(|stage| by_stage(&coverage, stage));
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = serde_json::json!({ "floor": FLOOR, "stages": stages });
        writeln!(out, "{report}")?;
    } else {
        write!(out, "{}", table(&stages))?;
        if args.missed {
            write!(out, "{}", missed(&coverage))?;
        }
    }
    let is_reached = stages.iter().all(|stage| stage.percent >= FLOOR);
    Ok(if is_reached {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds the tests of `xdp-balancer` with counters in them; returns the binary.
fn build(root: &Path, folder: &Path) -> Result<PathBuf> {
    let args = [
        "test",
        "--release",
        "--package=xdp-balancer",
        "--lib",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ];
    shell::say(&format!("$ cargo {} (instrumented)", args.join(" ")));
    let output = shell::cargo_command(root)
        .args(args)
        .arg("--target-dir")
        .arg(folder)
        .env("RUSTFLAGS", "-Cinstrument-coverage")
        // Build scripts and macros are counted too while they run.
        .env("LLVM_PROFILE_FILE", folder.join("build-%p.profraw"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("the instrumented tests do not build");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    executable(&messages).context("cargo named no test binary")
}

/// The last executable that cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .next_back()
}

/// Runs the tests, and reads what they have counted.
fn measure(tools: &Tools, root: &Path, folder: &Path, binary: &Path) -> Result<Coverage> {
    let raw = folder.join("tests.profraw");
    let profile = folder.join("tests.profdata");
    shell::say(&format!("$ {}", binary.display()));
    let mut tests = Command::new(binary);
    tests
        .current_dir(root.join("xdp-balancer"))
        .env("LLVM_PROFILE_FILE", &raw)
        .stdout(Stdio::null());
    shell::run(&mut tests)?;
    let mut merge = Command::new(&tools.profdata);
    merge.args(["merge", "-sparse"]).arg(&raw).arg("-o");
    shell::run(merge.arg(&profile))?;
    let export = Command::new(&tools.cov)
        .args(["export", "-format=lcov", "-instr-profile"])
        .arg(&profile)
        .arg(binary)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting llvm-cov")?;
    if !export.status.success() {
        bail!("llvm-cov failed ({})", export.status);
    }
    let text = String::from_utf8_lossy(&export.stdout);
    let source = root.join("xdp-balancer/src");
    let coverage = Coverage::parse(&text, &source, |path| fs::read_to_string(path).ok());
    if coverage.files.is_empty() {
        bail!("llvm-cov named no file of {}", source.display());
    }
    Ok(coverage)
}

fn by_stage(coverage: &Coverage, stage: &'static str) -> Stage {
    let files = coverage
        .files
        .iter()
        .filter(|(file, _)| file.starts_with(stage));
    let (mut lines, mut covered) = (0, 0);
    for (_, counts) in files {
        lines += counts.len();
        covered += counts.values().filter(|count| **count > 0).count();
    }
    Stage {
        stage,
        lines,
        covered,
        percent: percent(covered, lines),
    }
}

/// A stage without lines is not covered: its folder has another name by now.
fn percent(covered: usize, lines: usize) -> f64 {
    if lines == 0 {
        0.0
    } else {
        100.0 * covered as f64 / lines as f64
    }
}

fn table(stages: &[Stage]) -> String {
    let mut table = format!(
        "{:<10}{:>7}{:>9}{:>9}\n",
        "STAGE", "LINES", "COVERED", "PERCENT"
    );
    for stage in stages {
        table.push_str(&format!(
            "{:<10}{:>7}{:>9}{:>9.1}\n",
            stage.stage, stage.lines, stage.covered, stage.percent
        ));
    }
    table
}

fn missed(coverage: &Coverage) -> String {
    let mut lines = String::new();
    for (file, counts) in &coverage.files {
        if STAGES.iter().any(|stage| file.starts_with(stage)) {
            let missed: BTreeMap<_, _> = counts.iter().filter(|(_, count)| **count == 0).collect();
            for line in missed.keys() {
                lines.push_str(&format!("{}:{line}\n", file.display()));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_the_sum_of_its_files() {
        let text = "SF:/r/route/a.rs\nDA:1,1\nDA:2,0\nend_of_record\nSF:/r/route/b/c.rs\nDA:7,9\nend_of_record\n\
                    SF:/r/routes.rs\nDA:1,0\nend_of_record\n";
        let coverage = Coverage::parse(text, Path::new("/r"), |_| None);
        let stage = by_stage(&coverage, "route");
        assert_eq!((stage.lines, stage.covered), (3, 2));
        assert_eq!(missed(&coverage), "route/a.rs:2\n");
    }

    #[test]
    fn a_stage_that_is_gone_does_not_count_as_covered() {
        let coverage = Coverage::parse("", Path::new("/r"), |_| None);
        assert!(by_stage(&coverage, "parse").percent < FLOOR);
    }

    #[test]
    fn the_binary_is_the_executable_that_cargo_names_last() {
        let messages =
            "{\"executable\":null}\nnoise\n{\"executable\":\"/t/lib-1\"}\n{\"reason\":\"x\"}";
        assert_eq!(executable(messages), Some("/t/lib-1".into()));
    }
}
