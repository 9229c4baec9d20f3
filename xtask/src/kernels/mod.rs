//! `cargo xtask kernels`: the tests of a floor on older kernels and on this machine's own. The older ones are Debian's, in
//! virtual machines; each gets the very test binary and eBPF object that were built here.
//!
//! All of a run stays in `target/kernels/<kernel>` (of the sandbox floor in `sandbox` there): `output.txt`, `console.txt`, and `tests/<name>.txt` with what each
//! test printed (a refused program's verifier log among it).

pub(crate) mod debian;
mod floor;
pub(crate) mod initramfs;
mod lines;
mod modules;
mod outcome;
mod report;
mod suite;
pub(crate) mod vm;

use std::{
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use self::{
    floor::Floor,
    outcome::{Outcome, Reader},
    suite::{Machine, Suite, Wanted},
};
use crate::{setup, shell};

/// Folder of all runs and downloads, below the workspace's root.
pub(crate) const FOLDER: &str = "target/kernels";

/// Lines shown of what the first failed test printed: where the verifier's log ends.
const FAILURE_TAIL: usize = 15;

/// A kernel to test on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// The oldest that is supported: Debian 12's own.
    #[value(name = "6.1")]
    Oldest,
    /// Debian 13's own, and Debian 12's backport.
    #[value(name = "6.12")]
    Stable,
    /// The one that runs here.
    #[value(name = "host")]
    Host,
}

impl Kernel {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Oldest => "6.1",
            Self::Stable => "6.12",
            Self::Host => "host",
        }
    }
}

/// What `cargo xtask kernels` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this kernel; may be given more than once.
    #[arg(long, value_name = "KERNEL")]
    kernel: Vec<Kernel>,
    /// Which tests.
    #[arg(long, value_name = "FLOOR", default_value = "program")]
    floor: Floor,
    #[command(flatten)]
    wanted: Wanted,
    /// Frames that the differential test compares on an emulated kernel.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    frames: u64,
    /// Seconds that one kernel may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    timeout: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the tests of one floor on each kernel. Fails unless all pass on all.
pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    if !shell::is_root() {
        bail!("the tests load programs into the kernel and make namespaces: run this as root");
    }
    setup::run_for(setup::Mode::Install, setup::Purpose::Kernels)?;
    args.floor.prepare(root)?;
    let suite = Suite::build(root, args.floor, &args.wanted)?;
    let kernels = if args.kernel.is_empty() {
        Kernel::value_variants()
    } else {
        &args.kernel
    };
    let mut outcomes = Vec::new();
    for kernel in kernels {
        let folder = root.join(FOLDER).join(kernel.name());
        outcomes.push(test_on(*kernel, &suite, &folder, args)?);
    }
    report::print(&outcomes, args.json)?;
    Ok(if outcomes.iter().all(Outcome::is_good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A run that comes to nothing is an outcome too: the other kernels still have their turn.
fn test_on(kernel: Kernel, suite: &Suite, folder: &Path, args: &Args) -> Result<Outcome> {
    let runs = match args.floor {
        Floor::Program => folder.to_owned(),
        Floor::Sandbox => folder.join("sandbox"),
    };
    fs::create_dir_all(&runs).with_context(|| format!("creating {}", runs.display()))?;
    let started = Instant::now();
    let mut reader = Reader::default();
    let mut release = String::new();
    let on_line = |line: &str| {
        if release.is_empty() {
            line.clone_into(&mut release);
        } else if let Some((test, passed)) = reader.line(line) {
            let fate = if passed { "ok" } else { "FAILED" };
            let seconds = started.elapsed().as_secs();
            shell::say(&format!(
                "kernels: {} {seconds:4} s  {test} {fate}",
                kernel.name()
            ));
        }
    };
    let timeout = Duration::from_secs(args.timeout);
    let machine = match kernel {
        Kernel::Host => Machine::Own,
        Kernel::Oldest | Kernel::Stable => Machine::Emulated,
    };
    let ended = match kernel {
        Kernel::Host => suite.run_here(&runs, timeout, on_line),
        Kernel::Oldest | Kernel::Stable => {
            debian::obtain(kernel.name(), folder).and_then(|debian| {
                shell::say(&format!(
                    "kernels: {}: booting {}",
                    kernel.name(),
                    debian.release
                ));
                vm::run(&debian, &suite.guest(args.frames), &runs, timeout, on_line)
            })
        }
    };
    save_printed(&reader, &runs.join("tests"))?;
    if let Some((test, text)) = reader.first_failure() {
        let text = vm::tail(text, FAILURE_TAIL);
        shell::say(&format!(
            "kernels: {}: {test} said last:\n{text}",
            kernel.name()
        ));
    }
    let mut outcome = reader.finish(&suite.names(machine));
    outcome.not_run = suite.left_out(machine);
    outcome.kernel = kernel.name().to_owned();
    outcome.release = release;
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome.error = match ended {
        Ok(0) => None,
        // The names of the failed say more than the status.
        Ok(_) if !outcome.failed.is_empty() => None,
        Ok(status) => Some(format!("the test binary ended with status {status}")),
        Err(error) => Some(format!("{error:#}")),
    };
    Ok(outcome)
}

/// One file a test, with what it printed; those of an earlier run go.
fn save_printed(reader: &Reader, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for (test, text) in reader.printed() {
        let path = folder.join(format!("{}.txt", test.replace("::", ".")));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
