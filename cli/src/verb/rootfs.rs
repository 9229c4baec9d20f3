//! `warmpath worker rootfs build|list|verify|remove|renew`: the root file systems of sandboxes on this machine.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use worker::rootfs::{self, Event, Kept, List};

use crate::{
    args::OutputArgs,
    output::{self, Exit, Table},
};

/// What is done with them.
#[derive(Debug, Subcommand)]
pub(crate) enum RootfsVerb {
    /// Build the one whose packages this binary pins, unless it is there
    Build {
        /// Where built ones are kept: `[sandbox] rootfs_dir` of workers
        #[arg(long, default_value = worker::rootfs::DIR)]
        dir: PathBuf,
        /// Another list of packages, as `renew` writes it
        #[arg(long, value_name = "FILE")]
        list: Option<PathBuf>,
        /// Where Debian's archives are, instead of http://deb.debian.org
        #[arg(long, value_name = "URL")]
        mirror: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show those that are built
    List {
        /// Where built ones are kept
        #[arg(long, default_value = worker::rootfs::DIR)]
        dir: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Compare every file of one with what was built; ends with 1 if one differs
    Verify {
        /// Its digest, or the first 12 or more digits of it
        name: String,
        /// Where built ones are kept
        #[arg(long, default_value = worker::rootfs::DIR)]
        dir: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove one that no worker uses
    Remove {
        /// Its digest, or the first 12 or more digits of it
        name: String,
        /// Where built ones are kept
        #[arg(long, default_value = worker::rootfs::DIR)]
        dir: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Write a list of the packages that Debian has today
    Renew {
        /// The file to write
        #[arg(long, value_name = "FILE")]
        list: PathBuf,
        /// For which processor, by Debian's name
        #[arg(long, value_parser = worker::rootfs::ARCHITECTURES)]
        architecture: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(super) async fn run(verb: &RootfsVerb) -> Result<Exit> {
    match verb {
        RootfsVerb::Build {
            dir,
            list,
            mirror,
            output,
        } => build(dir, list.as_deref(), mirror.as_deref(), output).await,
        RootfsVerb::List { dir, output } => show(dir, output),
        RootfsVerb::Verify { dir, name, output } => verify(dir, name, output),
        RootfsVerb::Remove { dir, name, output } => remove(dir, name, output),
        RootfsVerb::Renew {
            list,
            architecture,
            output,
        } => renew(list, architecture.as_deref(), output),
    }
}

fn pinned(list: Option<&Path>) -> Result<List> {
    Ok(match list {
        Some(path) => List::load(path).with_context(|| format!("{}", path.display()))?,
        None => List::own()?,
    })
}

async fn build(
    dir: &Path,
    list: Option<&Path>,
    mirror: Option<&str>,
    output: &OutputArgs,
) -> Result<Exit> {
    let list = pinned(list)?;
    let (began, progress) = (Instant::now(), Progress::new(&list));
    let built = rootfs::build(dir, &list, mirror, &|event| progress.show(event)).await;
    progress.bar.finish_and_clear();
    let built = built.with_context(|| format!("build a root file system in {}", dir.display()))?;
    if output.json {
        output::json(&built)?;
        return Ok(Exit::Ok);
    }
    let took = began.elapsed();
    let how = if built.is_new {
        format!("built in {:.1} s", took.as_secs_f64())
    } else {
        "was there".to_owned()
    };
    output::line(format_args!("{} {how}", built.digest))?;
    Ok(Exit::Ok)
}

/// A bar on a terminal; elsewhere nothing but the result is printed.
struct Progress {
    bar: ProgressBar,
    packages: usize,
}

impl Progress {
    fn new(list: &List) -> Self {
        let bar = ProgressBar::new(list.size());
        let style = "{msg:<24} {wide_bar} {bytes}/{total_bytes}";
        let style =
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_message("fetching");
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            bar,
            packages: list.packages.len(),
        }
    }

    fn show(&self, event: Event) {
        let message = match event {
            Event::Waiting => "waiting for another build",
            Event::Fetched(bytes) => {
                self.bar.inc(bytes);
                "fetching"
            }
            Event::Unpacked => "unpacking",
            Event::Compiling => "compiling Python",
            Event::Sealing => "writing the manifest",
        };
        if event == Event::Unpacked && self.bar.message() != message {
            let style = ProgressStyle::with_template("{msg:<24} {wide_bar} {pos}/{len} packages");
            self.bar
                .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.bar.set_length(self.packages as u64);
            self.bar.set_position(0);
        }
        if event == Event::Unpacked {
            self.bar.inc(1);
        }
        self.bar.set_message(message);
    }
}

fn show(dir: &Path, output: &OutputArgs) -> Result<Exit> {
    let stored = Kept::new(dir).list()?;
    if output.json {
        output::json(&stored)?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&[
        "digest",
        "release",
        "processor",
        "packages",
        "mb",
        "pinned",
        "used",
    ]);
    let yes = |is: bool| if is { "yes" } else { "-" }.to_owned();
    for root in stored {
        table.row(vec![
            root.digest,
            root.suite,
            root.architecture,
            root.packages.to_string(),
            (root.bytes >> 20).to_string(),
            yes(root.is_own),
            yes(root.is_used),
        ]);
    }
    table.print()?;
    Ok(Exit::Ok)
}

fn remove(dir: &Path, name: &str, output: &OutputArgs) -> Result<Exit> {
    let kept = Kept::new(dir);
    let digest = kept.find(name)?;
    kept.remove(&digest)?;
    if output.json {
        output::json(&json!({ "digest": digest, "removed": true }))?;
    } else {
        output::line(format_args!("{digest} removed"))?;
    }
    Ok(Exit::Ok)
}

/// Ends with 1 if a file is not as it was built.
fn verify(dir: &Path, name: &str, output: &OutputArgs) -> Result<Exit> {
    let kept = Kept::new(dir);
    let digest = kept.find(name)?;
    let differences = kept.verify(&digest)?;
    if output.json {
        output::json(&json!({ "digest": digest, "differences": differences }))?;
    } else {
        for difference in &differences {
            output::line(format_args!("{} {}", difference.what, difference.path))?;
        }
        output::line(format_args!("{digest}: {} differences", differences.len()))?;
    }
    Ok(match differences.len() {
        0 => Exit::Ok,
        _ => Exit::Failed,
    })
}

fn renew(path: &PathBuf, architecture: Option<&str>, output: &OutputArgs) -> Result<Exit> {
    let own = List::own().ok().map(|list| list.architecture);
    let architecture = architecture.map(str::to_owned).or(own);
    let architecture = architecture.context("no list for this processor: give --architecture")?;
    let list = rootfs::renew(&architecture).context("renew the list of packages")?;
    std::fs::write(path, list.text()).with_context(|| format!("write {}", path.display()))?;
    let (packages, digest) = (list.packages.len(), list.digest());
    if output.json {
        output::json(&json!({ "list": path, "packages": packages, "digest": digest.hex() }))?;
    } else {
        output::line(format_args!(
            "{}: {packages} packages, {}",
            path.display(),
            digest.hex()
        ))?;
    }
    Ok(Exit::Ok)
}
