//! `wheels.lock`: a requirements file of pip's own kind, one line a package, with the hash of its wheel for each
//! Python and processor that the tests may run on.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use pip_report::Chosen;

use super::PYTHON;
use crate::shell;

/// Those of Debian 12, Ubuntu 24.04 and Debian 13.
const PYTHONS: [&str; 3] = ["3.11", "3.12", "3.13"];
const PROCESSORS: [&str; 2] = ["x86_64", "aarch64"];
/// The C libraries that wheels may ask for: these distributions have newer ones.
const LIBRARIES: [&str; 3] = ["manylinux_2_28", "manylinux_2_17", "manylinux2014"];
const HEADER: &str = "\
# The wheels of what the functions in examples/openlambda require. Written by `cargo xtask wheels --update-lock`.
";

/// Versions and hashes by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lock {
    packages: BTreeMap<String, Pinned>,
}

#[derive(Debug, PartialEq, Eq)]
struct Pinned {
    version: String,
    sha256: BTreeSet<String>,
}

impl Lock {
    /// Asks pip what the examples require, once for each kind of machine.
    pub(super) fn resolve(root: &Path) -> Result<Self> {
        let requirements = requirements(root)?;
        let mut lock = Self::default();
        for python in PYTHONS {
            for processor in PROCESSORS {
                let report = report(&requirements, python, processor)?;
                lock.add(&report)
                    .with_context(|| format!("Python {python} on {processor}"))?;
            }
        }
        Ok(lock)
    }

    /// Adds what pip chose for one kind of machine.
    fn add(&mut self, report: &str) -> Result<()> {
        let report = pip_report::read(report.as_bytes()).context("reading pip's report")?;
        for Chosen {
            name,
            version,
            sha256,
        } in report
        {
            let Some(sha256) = sha256 else {
                bail!("the index has no SHA-256 of {name} {version}");
            };
            let name = name.to_lowercase().replace(['_', '.'], "-");
            let pinned = self.packages.entry(name.clone()).or_insert_with(|| Pinned {
                version: version.clone(),
                sha256: BTreeSet::new(),
            });
            if pinned.version != version {
                bail!(
                    "{name} would be {version}, elsewhere it is {}: pin it in the requirements",
                    pinned.version
                );
            }
            pinned.sha256.insert(sha256);
        }
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        let lines = self.packages.iter().map(|(name, pinned)| {
            let hashes = pinned.sha256.iter();
            let hashes: Vec<_> = hashes.map(|hash| format!("--hash=sha256:{hash}")).collect();
            let hashes = hashes.join(" \\\n    ");
            format!("{name}=={} \\\n    {hashes}\n", pinned.version)
        });
        HEADER.to_owned() + &lines.collect::<String>()
    }
}

/// The `requirements.txt` of every example that has one.
fn requirements(root: &Path) -> Result<Vec<PathBuf>> {
    let examples = root.join("examples/openlambda");
    let folders =
        std::fs::read_dir(&examples).with_context(|| format!("reading {}", examples.display()))?;
    let mut files = Vec::new();
    for folder in folders {
        let folder = folder.with_context(|| format!("reading {}", examples.display()))?;
        files.push(folder.path().join("requirements.txt"));
    }
    files.retain(|file| file.is_file());
    files.sort();
    Ok(files)
}

fn report(requirements: &[PathBuf], python: &str, processor: &str) -> Result<String> {
    let mut args: Vec<String> = [
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
    ]
    .into_iter()
    .chain([
        "--only-binary",
        ":all:",
        "--target",
        "none",
        "--report",
        "-",
    ])
    .chain(["--python-version", python])
    .map(str::to_owned)
    .collect();
    for library in LIBRARIES {
        args.extend(["--platform".to_owned(), format!("{library}_{processor}")]);
    }
    for file in requirements {
        args.extend(["--requirement".to_owned(), file.display().to_string()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    shell::output(PYTHON, &args).with_context(|| {
        format!(
            "pip finds no wheels for Python {python} on {processor}: `{PYTHON} {}`",
            args.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, version: &str, hash: &str) -> String {
        let package = serde_json::json!({
            "metadata": {"name": name, "version": version},
            "download_info": {"archive_info": {"hash": hash}},
        });
        serde_json::json!({ "install": [package] }).to_string()
    }

    #[test]
    fn a_package_has_one_version_and_the_hashes_of_all_machines() {
        let mut lock = Lock::default();
        for hash in ["sha256=bb", "sha256=aa", "sha256=bb"] {
            lock.add(&report("Two_Words", "1.0", hash)).unwrap();
        }
        let text =
            format!("{HEADER}two-words==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n");
        assert_eq!(lock.text(), text);
    }

    #[test]
    fn versions_that_differ_by_machine_and_files_without_a_hash_are_refused() {
        let mut lock = Lock::default();
        lock.add(&report("a", "1.0", "sha256=aa")).unwrap();
        assert!(lock.add(&report("a", "2.0", "sha256=bb")).is_err());
        assert!(lock.add(&report("b", "1.0", "md5=bb")).is_err());
        assert!(lock.add("{}").is_err());
    }
}
