//! The lock of a `requirements.txt`: every package with its version and the SHA-256 of its file, written beside
//! it so that the next deployment gets the same.
//!
//! It is a requirements file itself, which `pip install --require-hashes` takes. Its first line says what it
//! was made of; requirements that have changed since, or another Python, make it stale.

use std::path::Path;

use pip_report::Chosen;
use store::Digest;

use crate::error::ResolveError;

/// What the first line begins with.
const HEADER: &str = "# written by warmpath fn deploy of requirements";

/// A package, as it will be deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// Its name, normalised.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Hexadecimal digits of the SHA-256 of its file.
    pub sha256: String,
}

/// All packages of a function, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// What it was made of.
    basis: String,
    /// The packages.
    pub packages: Vec<Locked>,
}

/// What a lock of `requirements` for `python` (`3.11`) is made of.
pub(crate) fn basis(requirements: &[u8], python: &str) -> String {
    format!("{} for Python {python}", Digest::of(requirements))
}

impl Lock {
    /// The lock that pip's report `json` gives.
    pub(crate) fn of_report(json: &[u8], basis: String) -> Result<Self, ResolveError> {
        let broken = |reason: String| ResolveError::Tool {
            tool: "pip",
            reason: format!("its report cannot be understood: {reason}"),
        };
        let report = pip_report::read(json).map_err(|e| broken(e.to_string()))?;
        let mut packages = Vec::with_capacity(report.len());
        for Chosen {
            name,
            version,
            sha256,
        } in report
        {
            let Some(sha256) = sha256.filter(|hash| is_hash(hash)) else {
                return Err(broken(format!("{name} has no SHA-256")));
            };
            packages.push(Locked {
                name: normalised(&name),
                version,
                sha256,
            });
        }
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { basis, packages })
    }

    /// Reads `text`, the content of `path`. `None` when it was made of something else than `basis`.
    pub(crate) fn parse(
        text: &str,
        path: &Path,
        basis: &str,
    ) -> Result<Option<Self>, ResolveError> {
        let bad = |line| ResolveError::BadLock {
            path: path.to_owned(),
            line,
        };
        let mut lines = text.lines();
        let header = lines.next().and_then(|line| line.strip_prefix(HEADER));
        let made_of = header.ok_or_else(|| bad(1))?.trim();
        if made_of != basis {
            return Ok(None);
        }
        let packages = lines
            .enumerate()
            .map(|(at, line)| package(line).ok_or_else(|| bad(at + 2)))
            .collect::<Result<_, _>>()?;
        Ok(Some(Self {
            basis: basis.to_owned(),
            packages,
        }))
    }

    /// As a file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{HEADER} {}\n", self.basis);
        for Locked {
            name,
            version,
            sha256,
        } in &self.packages
        {
            text.push_str(&format!("{name}=={version} --hash=sha256:{sha256}\n"));
        }
        text
    }
}

fn package(line: &str) -> Option<Locked> {
    let (pinned, sha256) = line.split_once(" --hash=sha256:")?;
    let (name, version) = pinned.split_once("==")?;
    let is_version = |byte: u8| byte.is_ascii_alphanumeric() || b".+!_-".contains(&byte);
    let fits = normalised(name) == name
        && !name.is_empty()
        && !version.is_empty()
        && version.bytes().all(is_version)
        && is_hash(sha256);
    fits.then(|| Locked {
        name: name.to_owned(),
        version: version.to_owned(),
        sha256: sha256.to_owned(),
    })
}

fn is_hash(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The one spelling of a package's name (PEP 503); what else it holds is left out.
pub(crate) fn normalised(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            'a'..='z' | '0'..='9' => out.push(c),
            'A'..='Z' => out.push(c.to_ascii_lowercase()),
            '-' | '_' | '.' if !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(hash: &str) -> Vec<u8> {
        format!(
            r#"{{"version":"1","install":[
                {{"metadata":{{"name":"Two_Words","version":"1.0+local"}},"download_info":{{"url":"x","archive_info":{{"hash":"{hash}"}}}}}},
                {{"metadata":{{"name":"abc","version":"2"}},"download_info":{{"archive_info":{{"hash":"{hash}"}}}}}}]}}"#
        )
        .into_bytes()
    }

    #[test]
    fn a_lock_is_read_as_it_was_written() {
        let hash = format!("sha256={}", "a".repeat(64));
        let lock = Lock::of_report(&report(&hash), basis(b"abc", "3.11")).unwrap();
        assert_eq!(lock.packages[0].name, "abc");
        assert_eq!(lock.packages[1].name, "two-words");
        let again = Lock::parse(&lock.text(), Path::new("l"), &basis(b"abc", "3.11"));
        assert_eq!(again.unwrap(), Some(lock.clone()));
        for changed in [basis(b"abd", "3.11"), basis(b"abc", "3.12")] {
            assert_eq!(
                Lock::parse(&lock.text(), Path::new("l"), &changed).unwrap(),
                None
            );
        }
    }

    #[test]
    fn a_package_without_its_hash_is_not_locked() {
        for hash in ["", "md5=0", "sha256=xyz"] {
            assert!(Lock::of_report(&report(hash), String::new()).is_err());
        }
        assert!(Lock::of_report(b"[]", String::new()).is_err());
    }

    #[test]
    fn a_lock_that_somebody_else_wrote_is_refused_with_its_line() {
        let basis = basis(b"", "3.11");
        let hash = "a".repeat(64);
        let parse =
            |line: &str| Lock::parse(&format!("{HEADER} {basis}\n{line}"), Path::new("l"), &basis);
        assert!(parse(&format!("a==1 --hash=sha256:{hash}")).is_ok());
        for bad in [
            "a==1".to_owned(),
            format!("a==1 --hash=sha256:{hash} --hash=sha256:{hash}"),
            format!("--index-url=http://x --hash=sha256:{hash}"),
            format!("../a==1 --hash=sha256:{hash}"),
            format!("a==1; x --hash=sha256:{hash}"),
        ] {
            assert!(
                matches!(parse(&bad), Err(ResolveError::BadLock { line: 2, .. })),
                "{bad}"
            );
        }
        assert!(Lock::parse("a==1\n", Path::new("l"), &basis).is_err());
    }
}
