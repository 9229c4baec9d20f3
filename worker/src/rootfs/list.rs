//! The list of packages that a root file system is built of: each pinned by version and SHA-256.
//!
//! One list a processor is part of this binary (`worker/rootfs/*.list`), so that the same binary builds the same root
//! everywhere. `warmpath worker rootfs renew` writes another.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use store::Digest;

use super::RECIPE;

/// Debian's names of the processors that there are lists for.
pub const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
const OWN: [(&str, &str); 2] = [
    ("amd64", include_str!("../../rootfs/amd64.list")),
    ("arm64", include_str!("../../rootfs/arm64.list")),
];
/// Stands for the moment in a list of packages that were never in Debian's archives.
pub(super) const NO_SNAPSHOT: &str = "none";
/// Far more than any root needs: a list is small, or it is none.
const PACKAGES_MAX: usize = 512;
const PACKAGE_BYTES_MAX: u64 = 256 << 20;
const HEADER: &str = "\
# What the root file system of sandboxes is built of, each package by its SHA-256. Written by `warmpath worker rootfs
# renew`. Columns: SHA-256, bytes, package, version, where it is below an archive of Debian's.
";

/// A list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// It cannot be read.
    #[error("cannot read the list of packages {path}")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error(
        "line {line} of the list of packages: {problem}; `warmpath worker rootfs renew` writes a whole one"
    )]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There is none for this processor.
    #[error(
        "there is no list of packages for this processor ({0}): give one, or use the host's /usr"
    )]
    NoneHere(&'static str),
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Hexadecimal digits of the SHA-256 of its file.
    pub sha256: String,
    /// Bytes of its file.
    pub size: u64,
    /// Where its file is: the archive (`debian`, `debian-security`) and the path in it, as URLs have it.
    pub path: String,
}

/// All packages of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Debian's name of the processor.
    pub architecture: String,
    /// Debian's name of the release.
    pub suite: String,
    /// When all of it was in the archives, as snapshot.debian.org names moments: `20261130T080000Z`; or
    /// [`NO_SNAPSHOT`].
    pub snapshot: String,
    /// The packages, by name.
    pub packages: Vec<Package>,
}

impl List {
    /// The list of this binary, for this processor.
    ///
    /// # Errors
    /// There is none.
    pub fn own() -> Result<Self, ListError> {
        let here = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => return Err(ListError::NoneHere(other)),
        };
        let own = OWN.iter().find(|(name, _)| *name == here);
        own.map_or(Err(ListError::NoneHere(here)), |(_, text)| {
            Self::parse(text)
        })
    }

    /// Reads the file `path`.
    ///
    /// # Errors
    /// It cannot be read, or is no list.
    pub fn load(path: &Path) -> Result<Self, ListError> {
        let text = std::fs::read_to_string(path).map_err(|source| ListError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Reads a list.
    ///
    /// # Errors
    /// [`ListError::Line`].
    pub fn parse(text: &str) -> Result<Self, ListError> {
        let mut list = Self {
            architecture: String::new(),
            suite: String::new(),
            snapshot: String::new(),
            packages: Vec::new(),
        };
        let mut names = BTreeSet::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = |problem| ListError::Line {
                line: number + 1,
                problem,
            };
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["architecture", name] => list.architecture = plain(name).map_err(wrong)?,
                ["suite", name] => list.suite = plain(name).map_err(wrong)?,
                ["snapshot", moment] => list.snapshot = plain(moment).map_err(wrong)?,
                [sha256, size, name, version, path] => {
                    let package = Package {
                        sha256: digits(sha256).map_err(wrong)?,
                        size: bytes(size).map_err(wrong)?,
                        name: plain(name).map_err(wrong)?,
                        version: plain(version).map_err(wrong)?,
                        path: place(path).map_err(wrong)?,
                    };
                    if !names.insert(package.name.clone()) {
                        return Err(wrong("the package is there twice"));
                    }
                    list.packages.push(package);
                }
                _ => return Err(wrong("it is neither a package nor a key with its value")),
            }
        }
        list.check(text.lines().count())?;
        list.packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    fn check(&self, line: usize) -> Result<(), ListError> {
        let missing = [&self.architecture, &self.suite, &self.snapshot]
            .iter()
            .any(|it| it.is_empty());
        let problem = match self.packages.len() {
            _ if missing => "`architecture`, `suite` and `snapshot` are needed before its end",
            0 => "no package until here",
            1..=PACKAGES_MAX => return Ok(()),
            _ => "more than 512 packages",
        };
        Err(ListError::Line { line, problem })
    }

    /// The list as text.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            architecture,
            suite,
            snapshot,
            packages,
        } = self;
        let mut text =
            format!("{HEADER}architecture {architecture}\nsuite {suite}\nsnapshot {snapshot}\n");
        for Package {
            name,
            version,
            sha256,
            size,
            path,
        } in packages
        {
            writeln!(text, "{sha256} {size} {name} {version} {path}")
                .expect("writing to a string does not fail");
        }
        text
    }

    /// What names the root that is built of it: the packages and the recipe, not where or when they are fetched.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut text = format!("{RECIPE}\n{}\n", self.architecture);
        for Package {
            name,
            version,
            sha256,
            ..
        } in &self.packages
        {
            writeln!(text, "{name} {version} {sha256}").expect("writing to a string does not fail");
        }
        Digest::of(text.as_bytes())
    }

    /// Bytes to be fetched.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.packages.iter().map(|package| package.size).sum()
    }
}

/// A word of names, versions, moments.
fn plain(word: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "+-.:~_".contains(c);
    if word.len() > 128 || !word.chars().all(fits) {
        return Err("a name or a version has a sign that none has");
    }
    Ok(word.to_owned())
}

fn digits(word: &str) -> Result<String, &'static str> {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if word.len() != 64 || !word.chars().all(is_digit) {
        return Err("a SHA-256 has 64 hexadecimal digits");
    }
    Ok(word.to_owned())
}

fn bytes(word: &str) -> Result<u64, &'static str> {
    match word.parse() {
        Ok(size @ 1..=PACKAGE_BYTES_MAX) => Ok(size),
        _ => Err("a package has 1 byte to 256 MiB"),
    }
}

/// A path in an archive, which shall not lead out of it.
fn place(word: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "+-.:~_/%".contains(c);
    let is_step = |step: &str| !step.is_empty() && step != "." && step != "..";
    if !word.chars().all(fits) || !word.split('/').all(is_step) || word.split('/').count() < 3 {
        return Err("a path has an archive and at least two more steps, and no `..`");
    }
    Ok(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        format!(
            "# comment\narchitecture amd64\nsuite bookworm\nsnapshot 20261130T080000Z\n\n\
             {b} 20 two 2:1.0-1+b2 debian/pool/main/t/two_1.0-1%2bb2_amd64.deb\n\
             {a} 10 one 1.0~rc1 debian-security/pool/updates/main/o/one.deb\n"
        )
    }

    #[test]
    fn a_list_is_read_written_and_read_again() {
        let list = List::parse(&text()).unwrap();
        let names: Vec<&str> = list.packages.iter().map(|it| it.name.as_str()).collect();
        assert_eq!((names, list.size()), (vec!["one", "two"], 30));
        assert_eq!(List::parse(&list.text()).unwrap(), list);
    }

    #[test]
    fn the_digest_names_packages_and_not_where_they_are() {
        let digest = |from: &str, to: &str| {
            let changed = text().replace(from, to);
            assert!(from == to || changed != text(), "{from}");
            List::parse(&changed).unwrap().digest()
        };
        let same = digest("", "");
        for (from, to) in [
            ("20261130T080000Z", "20270101T000000Z"),
            ("o/one.deb", "o/1.deb"),
            ("# comment", "# other"),
        ] {
            assert_eq!(digest(from, to), same, "{from}");
        }
        let a = "a".repeat(64);
        for (from, to) in [
            ("1.0~rc1", "1.0"),
            ("amd64\nsuite", "arm64\nsuite"),
            (a.as_str(), &"c".repeat(64)),
            (" one ", " three "),
        ] {
            assert_ne!(digest(from, to), same, "{from}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_line() {
        for (from, to, line) in [
            ("suite bookworm", "suite book worm", 3),
            ("suite bookworm\n", "", 6),
            (" 20 two", " 0 two", 6),
            (" 20 two", " 999999999999 two", 6),
            (" two ", " one ", 7),
            (" two ", " t;o ", 6),
            ("debian/pool/main/t/", "debian/../../t/", 6),
            ("debian/pool/main/t/two", "http://elsewhere/two", 6),
            ("debian/pool/main/t/two", "/two", 6),
            ("bbbb ", "bbbX ", 6),
            ("bbbb ", "bbb ", 6),
        ] {
            let changed = text().replacen(from, to, 1);
            match List::parse(&changed) {
                Err(ListError::Line { line: said, .. }) => assert_eq!(said, line, "{to}"),
                other => panic!("{to}: {other:?}"),
            }
        }
        assert!(List::parse("").is_err());
        let no_packages: String = text()
            .lines()
            .take(4)
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(List::parse(&no_packages).is_err());
    }

    #[test]
    fn the_lists_of_this_binary_are_whole() {
        for (name, text) in OWN {
            let list = List::parse(text).unwrap();
            assert_eq!(list.architecture, name);
            for needed in [
                "python3-minimal",
                "libpython3-stdlib",
                "libc6",
                "bash",
                "nodejs",
                "libc-bin",
            ] {
                assert!(
                    list.packages.iter().any(|it| it.name == needed),
                    "{needed} for {name}"
                );
            }
        }
    }
}
