//! `cargo xtask pktgen`: the kernel's packet generator, set up for an interface, run, and its results read.
//!
//! - [`script`]: what is written where, as a list; printed as a shell script or written by [`run`]
//! - [`result`](mod@result): what `/proc/net/pktgen/<device>` says afterwards
//! - [`check`]: all of it in a virtual machine, against the balancer's program

mod check;
mod result;
mod script;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};

use self::{
    result::DeviceResult,
    script::{Load, Script},
};

/// Where the module has its files.
const PROC: &str = "/proc/net/pktgen";

/// What `cargo xtask pktgen` does.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Send packets by an interface, and say how many went; with --dry-run, print the script that does it.
    Run {
        #[command(flatten)]
        load: Load,
        /// Only print the shell script.
        #[arg(long)]
        dry_run: bool,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read results: files that were copied from /proc/net/pktgen/<device>.
    Result {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run pktgen against the balancer's program in a virtual machine, and count that every packet was routed.
    Check(check::Args),
}

/// Does it.
pub(crate) fn run(root: &Path, verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::Run {
            load,
            dry_run,
            json,
        } => {
            let script = Script::new(load)?;
            if *dry_run {
                print(&script.shell())?;
            } else {
                print_results(&send(&script)?, *json)?;
            }
        }
        Verb::Result { files, json } => {
            let results = files.iter().map(|file| read(file));
            print_results(&results.collect::<Result<Vec<_>>>()?, *json)?;
        }
        Verb::Check(args) => return check::run(root, args),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the script's lines to the module's files. The last one returns when all packets have gone.
fn send(script: &Script) -> Result<Vec<DeviceResult>> {
    if !Path::new(PROC).join("pgctrl").exists() {
        bail!(
            "there is no {PROC}: load the module, as root, by `modprobe pktgen` (kernels without it: `cargo xtask pktgen check`)"
        );
    }
    for write in &script.writes {
        let path = Path::new(PROC).join(&write.file);
        fs::write(&path, format!("{}\n", write.line)).with_context(|| {
            format!(
                "pktgen refuses `{}` for {}; {} and dmesg say why",
                write.line,
                path.display(),
                path.display()
            )
        })?;
    }
    let read = |device: &String| read(&Path::new(PROC).join(device));
    script.devices.iter().map(read).collect()
}

fn read(file: &Path) -> Result<DeviceResult> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    result::parse(&text).with_context(|| format!("{} is no result of pktgen", file.display()))
}

fn print_results(results: &[DeviceResult], json: bool) -> Result<()> {
    if json {
        return print(&(serde_json::to_string_pretty(results).context("writing JSON")? + "\n"));
    }
    print(&result::table(results))
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).context("printing")
}
