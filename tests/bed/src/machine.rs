//! What there is on the machine, to compare before and after a run.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{run::cgroups, wait};

/// Nothing changes for so long when the kernel is done with freeing.
const REST: Duration = Duration::from_millis(500);
const REST_TIMEOUT: Duration = Duration::from_secs(20);

/// Folders in which we make files.
const OUR_PLACES: &[&str] = &["/run", "/run/netns", "/run/warmpath", "/sys/fs/bpf", "/tmp"];

/// A snapshot of everything that a demo could leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineState {
    /// Network namespaces in which a process lives or that have a name.
    pub namespaces: BTreeSet<String>,
    /// Mount points of our mount namespace.
    pub mounts: BTreeSet<String>,
    /// Control groups in all hierarchies.
    pub cgroups: BTreeSet<String>,
    /// Interfaces of our network namespace.
    pub interfaces: BTreeSet<String>,
    /// Loaded BPF programs, as `id name`.
    pub programs: BTreeSet<String>,
    /// BPF maps, as `id name`.
    pub maps: BTreeSet<String>,
    /// BPF links, by id.
    pub links: BTreeSet<String>,
    /// Processes that are ours by program or by namespace, as `pid command`.
    pub processes: BTreeSet<String>,
    /// Entries of the folders we make files in.
    pub files: BTreeSet<String>,
}

impl MachineState {
    /// Looks at the machine now.
    ///
    /// # Errors
    /// Not root, or `/proc` cannot be read.
    pub fn take() -> Result<Self> {
        let processes = processes()?;
        Ok(Self {
            namespaces: processes
                .iter()
                .map(|process| process.netns.clone())
                .chain(entries(Path::new("/run/netns")))
                .collect(),
            mounts: mounts()?,
            cgroups: cgroups::all()?
                .into_iter()
                .map(|path| path.display().to_string())
                .collect(),
            interfaces: entries(Path::new("/sys/class/net")).collect(),
            programs: programs()?,
            maps: maps()?,
            links: links()?,
            processes: processes
                .into_iter()
                .filter(|process| process.is_ours)
                .map(|process| process.label)
                .collect(),
            files: OUR_PLACES
                .iter()
                .flat_map(|place| entries(Path::new(place)))
                .collect(),
        })
    }

    /// Looks until nothing has changed for a while: the kernel frees what an earlier run used a moment after it.
    ///
    /// # Errors
    /// As [`Self::take`], or the machine does not come to rest.
    pub fn take_at_rest() -> Result<Self> {
        let mut last = Self::take()?;
        let mut since = Instant::now();
        wait::until("the machine to come to rest", REST_TIMEOUT, || {
            let now = Self::take()?;
            if now != last {
                last = now;
                since = Instant::now();
            }
            Ok((since.elapsed() >= REST).then(|| last.clone()))
        })
    }

    /// What `self` has that `before` had not, and the other way round; empty when they are the same.
    #[must_use]
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, now: &BTreeSet<String>, then: &BTreeSet<String>| {
            found.extend(now.difference(then).map(|it| format!("new {what}: {it}")));
            found.extend(then.difference(now).map(|it| format!("lost {what}: {it}")));
        };
        compare("namespace", &self.namespaces, &before.namespaces);
        compare("mount", &self.mounts, &before.mounts);
        compare("control group", &self.cgroups, &before.cgroups);
        compare("interface", &self.interfaces, &before.interfaces);
        compare("BPF program", &self.programs, &before.programs);
        compare("BPF map", &self.maps, &before.maps);
        compare("BPF link", &self.links, &before.links);
        compare("process", &self.processes, &before.processes);
        compare("file", &self.files, &before.files);
        found
    }
}

struct Seen {
    label: String,
    netns: String,
    is_ours: bool,
}

fn processes() -> Result<Vec<Seen>> {
    let home = fs::read_link("/proc/self/ns/net").context("reading our network namespace")?;
    let entries = fs::read_dir("/proc").context("listing /proc")?;
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let dir = entry.path();
            // It may end while we look; then it is not there to be compared.
            let netns = fs::read_link(dir.join("ns/net")).ok()?;
            let command = fs::read_to_string(dir.join("comm")).ok()?;
            let program = fs::read_link(dir.join("exe")).unwrap_or_default();
            let is_warmpath = program.file_name().is_some_and(|name| name == "warmpath");
            Some(Seen {
                label: format!("{pid} {}", command.trim()),
                is_ours: netns != home || is_warmpath,
                netns: netns.display().to_string(),
            })
        })
        .collect())
}

fn mounts() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(str::to_owned)
        .collect())
}

/// The paths in `dir`; none when it is not there.
fn entries(dir: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().display().to_string())
}

fn programs() -> Result<BTreeSet<String>> {
    aya::programs::loaded_programs()
        .map(|info| {
            let info = info.context("listing BPF programs")?;
            Ok(format!(
                "{} {}",
                info.id(),
                info.name_as_str().unwrap_or("?")
            ))
        })
        .collect()
}

fn maps() -> Result<BTreeSet<String>> {
    aya::maps::loaded_maps()
        .map(|info| {
            let info = info.context("listing BPF maps")?;
            Ok(format!(
                "{} {}",
                info.id(),
                info.name_as_str().unwrap_or("?")
            ))
        })
        .collect()
}

fn links() -> Result<BTreeSet<String>> {
    aya::programs::loaded_links()
        .map(|info| Ok(info.context("listing BPF links")?.id().to_string()))
        .collect()
}
