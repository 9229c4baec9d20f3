//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer and AddressSanitizer, each for some seconds.
//!
//! cargo-fuzz asks for nightly; what it does with it, the stable compiler does too when `RUSTC_BOOTSTRAP` lets it take the
//! flags. `cargo +nightly fuzz run <target>` works on the same folder.

mod stats;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use stats::Stats;

use crate::shell;

const TARGET_DIR: &str = "target/fuzz";
/// Those of cargo-fuzz 0.13: coverage that libFuzzer reads, the sanitizer, and checks of arithmetic.
const RUSTFLAGS: &str = "-Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions --cfg fuzzing";

/// Fuzzes every parser that runs on the host.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The target; all of them without one.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Print the names of the targets.
    #[arg(long)]
    list: bool,
}

/// Builds the targets and runs those asked for, one after the other; fails if one finds something.
pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let folder = root.join("fuzz");
    let mut targets = targets(&folder)?;
    if let Some(target) = &args.target {
        targets.retain(|name| name == target);
        if targets.is_empty() {
            bail!("there is no target `{target}`; `cargo xtask fuzz --list` names them");
        }
    }
    let mut out = std::io::stdout().lock();
    if args.list {
        for target in targets {
            writeln!(out, "{target}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let binaries = build(root, &folder, args.target.as_deref())?;
    let mut found = Vec::new();
    writeln!(out, "{}", Stats::HEADINGS)?;
    for target in targets {
        let outcome = fuzz(&folder, &binaries.join(&target), &target, args.seconds)?;
        writeln!(out, "{}", outcome.stats.row(&target))?;
        if !outcome.is_clean {
            found.push(target);
        }
    }
    if found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let found = found.join(", ");
    shell::say(&format!(
        "found something: {found}; the inputs are in fuzz/artifacts/<target>/, the reports in target/fuzz/<target>.log"
    ));
    Ok(ExitCode::FAILURE)
}

/// The names of the targets, in order.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let sources = folder.join("fuzz_targets");
    let entries =
        fs::read_dir(&sources).with_context(|| format!("reading {}", sources.display()))?;
    let mut targets = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let (Some("rs"), Some(name)) = (
            path.extension().and_then(|extension| extension.to_str()),
            path.file_stem().and_then(|name| name.to_str()),
        ) {
            targets.push(name.to_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

/// Builds them; returns where they are. Naming the platform keeps build scripts and macros free of the sanitizer.
fn build(root: &Path, folder: &Path, target: Option<&str>) -> Result<PathBuf> {
    let version = shell::output("rustc", &["-vV"]).context("rustc does not run")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not name its host")?;
    let target_dir = root.join(TARGET_DIR);
    let mut cargo = shell::cargo_command(folder);
    cargo
        .args(["build", "--release", "--target", host, "--target-dir"])
        .arg(&target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", RUSTFLAGS);
    match target {
        Some(target) => cargo.args(["--bin", target]),
        None => cargo.arg("--bins"),
    };
    shell::say("$ cargo build --release (fuzz/, with a sanitizer)");
    shell::run(&mut cargo)?;
    Ok(target_dir.join(host).join("release"))
}

/// How a run ended.
struct Outcome {
    stats: Stats,
    is_clean: bool,
}

/// Runs one target on its corpus, which grows.
fn fuzz(folder: &Path, binary: &Path, target: &str, seconds: u64) -> Result<Outcome> {
    let corpus = folder.join("corpus").join(target);
    let artifacts = folder.join("artifacts").join(target);
    for needed in [&corpus, &artifacts] {
        fs::create_dir_all(needed).with_context(|| format!("making {}", needed.display()))?;
    }
    let log = binary
        .ancestors()
        .nth(3)
        .context("the target is in no target folder")?
        .join(format!("{target}.log"));
    let report = fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let begun = Instant::now();
    let status = Command::new(binary)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-timeout=10"])
        .arg(&corpus)
        .args(Some(folder.join("seeds").join(target)).filter(|seeds| seeds.is_dir()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(report)
        .status()
        .with_context(|| format!("starting {}", binary.display()))?;
    let text = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
    Ok(Outcome {
        stats: Stats::read(&text, begun.elapsed(), status.success()),
        is_clean: status.success(),
    })
}
