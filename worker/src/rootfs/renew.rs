//! A new list: what the seeds need today, by apt, which checks Debian's signatures.
//!
//! apt runs with a state of its own in a temporary folder: neither the sources nor the packages of this machine play a
//! part, nor does its processor. It must know Debian's keys (package `debian-archive-keyring`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::list::{List, ListError, Package};

/// Its Python is that of the layers that the deployer makes; see docs/worker.md.
const SUITE: &str = "bookworm";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What a root is to have, with all that this needs.
const SEEDS: [&str; 17] = [
    "bash",
    "ca-certificates",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "gzip",
    "libc-bin",
    "libpython3-stdlib",
    "libstdc++6",
    "mawk",
    "nodejs",
    "perl",
    "python3-minimal",
    "sed",
    "tar",
    "tzdata",
];
/// Needed by packages' scripts alone, which never run here.
const NEVER: [&str; 4] = ["base-files", "debconf", "dpkg", "openssl"];

/// No new list can be made.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// apt is missing.
    #[error("cannot run {tool}: a list is renewed on a system with apt, Debian or Ubuntu")]
    NoTool {
        /// The program.
        tool: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Debian's keys are missing.
    #[error(
        "{KEYS} is missing, by which apt knows Debian's signatures: install the package debian-archive-keyring"
    )]
    NoKeys,
    /// apt failed.
    #[error("{tool} fails: {said}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// The last that it said.
        said: String,
    },
    /// A package is missing.
    #[error("{SUITE} has no package {0}: it needs another in worker/src/rootfs/renew.rs")]
    Unknown(String),
    /// What apt says is no list.
    #[error("apt's answer is no list")]
    List(#[from] ListError),
}

/// The list for `architecture` of today.
///
/// # Errors
/// [`RenewError`].
pub fn renew(architecture: &str) -> Result<List, RenewError> {
    if !Path::new(KEYS).exists() {
        return Err(RenewError::NoKeys);
    }
    let apt = Apt::new(architecture)?;
    // Before what it stands for: the archive has everything that was there at that moment.
    let snapshot = moment(SystemTime::now());
    apt.run("apt-get", &["--quiet", "update"])?;
    let names = closure(|names| apt.depends(names))?;
    let mut args = vec!["download", "--print-uris"];
    args.extend(names.keys().map(String::as_str));
    let packages = apt.run("apt-get", &args)?;
    let list = List {
        architecture: architecture.to_owned(),
        suite: SUITE.to_owned(),
        snapshot,
        packages: packages
            .lines()
            .filter_map(|line| package(line, &names))
            .collect(),
    };
    // Read back, and so checked as any other.
    Ok(List::parse(&list.text())?)
}

/// apt with a state of its own.
#[derive(Debug)]
struct Apt {
    dir: TempDir,
}

impl Apt {
    fn new(architecture: &str) -> Result<Self, RenewError> {
        let dir = TempDir::new().map_err(write_error(&std::env::temp_dir()))?;
        let at = dir.path().display();
        let archive = |path: &str, suite: &str| {
            format!("deb [signed-by={KEYS}] http://deb.debian.org/{path} {suite} main\n")
        };
        let sources = [
            archive("debian", SUITE),
            archive("debian", &format!("{SUITE}-updates")),
            archive("debian-security", &format!("{SUITE}-security")),
        ];
        let configuration = format!(
            "Dir \"{at}\";\nDir::State::status \"{at}/status\";\nDir::Etc::sourcelist \"{at}/sources.list\";\n\
             Dir::Etc::sourceparts \"{at}/parts\";\nDir::Etc::parts \"{at}/parts\";\nDir::Etc::preferencesparts \"{at}/parts\";\n\
             APT::Architecture \"{architecture}\";\nAPT::Architectures {{\"{architecture}\";}};\n\
             Acquire::Languages \"none\";\nAPT::Sandbox::User \"\";\n"
        );
        for folder in [
            "parts",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
        ] {
            let path = dir.path().join(folder);
            fs::create_dir_all(&path).map_err(write_error(&path))?;
        }
        for (name, text) in [
            ("status", ""),
            ("sources.list", &sources.concat()),
            ("apt.conf", &configuration),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, text).map_err(write_error(&path))?;
        }
        Ok(Self { dir })
    }

    fn run(&self, tool: &'static str, args: &[&str]) -> Result<String, RenewError> {
        let output = Command::new(tool)
            .args(args)
            .env("APT_CONFIG", self.dir.path().join("apt.conf"))
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .map_err(|source| RenewError::NoTool { tool, source })?;
        let said = String::from_utf8_lossy(&output.stderr);
        // apt-get update ends well when a source cannot be reached, and goes on with none.
        let failed = said
            .lines()
            .find(|line| line.starts_with("W: Failed") || line.starts_with("E: "));
        if let (true, None) = (output.status.success(), failed) {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = failed
            .or_else(|| said.trim().lines().last())
            .unwrap_or("without a word");
        Err(RenewError::Tool {
            tool,
            said: said.to_owned(),
        })
    }

    /// Versions and dependencies of packages.
    fn depends(&self, names: &[&str]) -> Result<Vec<Stanza>, RenewError> {
        let mut args = vec!["show", "--no-all-versions"];
        args.extend(names);
        let text = self.run("apt-cache", &args)?;
        Ok(text.split("\n\n").filter_map(Stanza::parse).collect())
    }
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> RenewError {
    let path = path.to_owned();
    move |source| RenewError::Write { path, source }
}

/// What apt says of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stanza {
    name: String,
    version: String,
    /// Each of them is needed, or one of its alternatives.
    depends: Vec<Vec<String>>,
}

impl Stanza {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let clauses = [field("Pre-Depends"), field("Depends")];
        let clauses = clauses.into_iter().flatten().flat_map(|all| all.split(','));
        let name = |alternative: &str| {
            let name = alternative
                .trim()
                .split([' ', '(', ':'])
                .next()
                .unwrap_or_default();
            name.to_owned()
        };
        Some(Self {
            name: field("Package")?.to_owned(),
            version: field("Version")?.to_owned(),
            depends: clauses
                .map(|clause| clause.split('|').map(name).collect())
                .collect(),
        })
    }
}

/// The seeds and all that they need, each with its version; `show` tells of packages.
fn closure(
    mut show: impl FnMut(&[&str]) -> Result<Vec<Stanza>, RenewError>,
) -> Result<BTreeMap<String, String>, RenewError> {
    let mut known = BTreeMap::new();
    let mut wanted: BTreeSet<String> = SEEDS.map(str::to_owned).into();
    while !wanted.is_empty() {
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let stanzas = show(&names)?;
        let missing = wanted
            .iter()
            .find(|name| !stanzas.iter().any(|it| it.name == **name));
        if let Some(name) = missing {
            return Err(RenewError::Unknown(name.clone()));
        }
        known.extend(
            stanzas
                .iter()
                .map(|it| (it.name.clone(), it.version.clone())),
        );
        let clauses = stanzas.iter().flat_map(|it| &it.depends);
        let is_met = |name: &String| known.contains_key(name) || NEVER.contains(&name.as_str());
        // Of alternatives the first, as apt does it.
        let open = clauses.filter(|clause| !clause.iter().any(is_met));
        wanted = open.filter_map(|clause| clause.first().cloned()).collect();
    }
    Ok(known)
}

/// A line of `apt-get download --print-uris`: `'URL' file bytes SHA256:digits`.
fn package(line: &str, versions: &BTreeMap<String, String>) -> Option<Package> {
    let mut words = line.split(' ');
    let url = words.next()?.trim_matches('\'');
    let file = words.next()?;
    let size = words.next()?.parse().ok()?;
    let sha256 = words.next()?.strip_prefix("SHA256:")?.to_owned();
    let name = file.split('_').next()?.to_owned();
    let (_, path) = url.split_once("://")?.1.split_once('/')?;
    Some(Package {
        version: versions.get(&name)?.clone(),
        path: path.to_owned(),
        name,
        sha256,
        size,
    })
}

/// A moment as snapshot.debian.org names it.
fn moment(at: SystemTime) -> String {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (days, seconds) = (since / 86_400, since % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970: years begin in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_named_as_the_archive_names_them() {
        let at = |seconds| moment(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(1_795_996_800 + 3_661), "20261130T010101Z");
    }

    #[test]
    fn a_closure_takes_the_first_alternative_and_nothing_that_only_scripts_need() {
        let of = |name: &str| {
            let depends = match name {
                "bash" => {
                    "Pre-Depends: libtinfo6 (>= 6)\nDepends: base-files (>= 2), debconf | cdebconf\n"
                }
                "libtinfo6" => "Depends: libc6:any | musl\n",
                "libc6" => "Depends: libtinfo6\n",
                _ => "",
            };
            Stanza::parse(&format!("Package: {name}\nVersion: 1.0\n{depends}")).unwrap()
        };
        let show = |names: &[&str]| Ok(names.iter().map(|name| of(name)).collect());
        let names = closure(show).unwrap();
        for there in ["bash", "libtinfo6", "libc6"] {
            assert!(names.contains_key(there), "{there}");
        }
        for absent in ["base-files", "debconf", "cdebconf", "musl"] {
            assert!(!names.contains_key(absent), "{absent}");
        }
        let none = |_: &[&str]| Ok(Vec::new());
        assert!(matches!(closure(none), Err(RenewError::Unknown(name)) if name == "bash"));
    }

    #[test]
    fn a_line_of_apt_is_a_package() {
        let line = "'http://deb.debian.org/debian-security/pool/updates/main/b/bash_5%2b.deb' bash_5+_amd64.deb 12 SHA256:ab";
        let versions = BTreeMap::from([("bash".to_owned(), "5+".to_owned())]);
        let package = package(line, &versions).unwrap();
        assert_eq!(
            package.path,
            "debian-security/pool/updates/main/b/bash_5%2b.deb"
        );
        assert_eq!((package.size, package.version.as_str()), (12, "5+"));
        assert_eq!(super::package("Get:1 http://x", &versions), None);
    }
}
