//! What pip is told on this host, what it is asked in the cell, and what its complaints mean.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

use crate::{
    cell::Mount,
    error::ResolveError,
    proxy::{Seen, with_port},
};

/// Asks pip itself: its configuration has five places and an order of its own.
const ASK: &str = "\
import json, sys
from pip._internal.configuration import Configuration
from pip._internal.models.index import PyPI
configuration = Configuration(isolated=False)
configuration.load()
print(json.dumps({
    'python': '%d.%d' % sys.version_info[:2],
    'default': PyPI.simple_url,
    'files': PyPI.file_storage_domain,
    'items': [[name, str(value)] for name, value in configuration.items()],
}))";
/// Seconds that pip waits for the index to say something.
const READ_TIMEOUT_S: u32 = 15;
/// Shown of what pip said.
const SHOWN_LEN_MAX: usize = 600;

#[derive(Debug, Deserialize)]
struct Answer {
    python: String,
    default: String,
    files: String,
    items: Vec<(String, String)>,
}

/// pip's configuration, as far as it says where packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pip {
    python: PathBuf,
    /// `3.11`.
    pub(crate) version: String,
    index: String,
    extra: Vec<String>,
    find_links: Vec<String>,
    trusted: Vec<String>,
    cert: Option<PathBuf>,
    /// Where the default index keeps its files, if that is the index.
    files: Option<String>,
}

impl Pip {
    /// What the pip of `python` is configured to.
    pub(crate) fn of_host(python: &Path) -> Result<Self, ResolveError> {
        let no_tool = |reason: String| ResolveError::NoTool {
            tool: format!("{} -m pip", python.display()),
            reason: format!("{reason}; install the package python3-pip"),
        };
        let output = Command::new(python)
            .args(["-c", ASK])
            .current_dir("/")
            .output()
            .map_err(|error| no_tool(error.to_string()))?;
        if !output.status.success() {
            return Err(no_tool(tail(&String::from_utf8_lossy(&output.stderr))));
        }
        let answer: Answer =
            serde_json::from_slice(&output.stdout).map_err(|error| no_tool(error.to_string()))?;
        Ok(Self::of(python, answer))
    }

    fn of(python: &Path, answer: Answer) -> Self {
        // A later place overrules: the environment, then what is for one command, then what is for all.
        let get = |key: &str| {
            [":env:.", "install.", "global."]
                .iter()
                .find_map(|place| {
                    let name = format!("{place}{key}");
                    answer.items.iter().find(|(other, _)| *other == name)
                })
                .map(|(_, value)| value.clone())
        };
        let list = |key: &str| -> Vec<String> {
            let all = get(key).unwrap_or_default();
            all.split_whitespace().map(str::to_owned).collect()
        };
        let index = get("index-url");
        Self {
            python: python.to_owned(),
            version: answer.python,
            files: index.is_none().then_some(answer.files),
            index: index.unwrap_or(answer.default),
            extra: list("extra-index-url"),
            find_links: list("find-links"),
            trusted: list("trusted-host"),
            cert: get("cert").map(PathBuf::from),
        }
    }

    /// The same, with `url` as the one place that packages come from.
    pub(crate) fn with_index(self, url: &str) -> Self {
        Self {
            index: url.to_owned(),
            extra: Vec::new(),
            find_links: Vec::new(),
            files: None,
            ..self
        }
    }

    /// The addresses that it may speak to.
    pub(crate) fn hosts(&self, more: &[String]) -> BTreeSet<String> {
        let urls = [&self.index]
            .into_iter()
            .chain(&self.extra)
            .chain(&self.find_links);
        let files = self.files.iter().chain(more);
        urls.filter_map(|url| address(url))
            .chain(files.filter_map(|host| with_port(host, 443)))
            .collect()
    }

    /// The folders and files of this host that it needs.
    pub(crate) fn mounts(&self) -> Vec<Mount> {
        let links = self
            .find_links
            .iter()
            .filter(|link| address(link).is_none());
        let links = links.map(|link| PathBuf::from(link.trim_start_matches("file://")));
        links
            .chain(self.cert.clone())
            .filter(|path| path.is_absolute() && path.exists())
            // These are there already.
            .filter(|path| !path.starts_with("/usr") && !path.starts_with("/etc/ssl"))
            .map(|path| Mount {
                host: path.clone(),
                inside: path,
                writable: false,
            })
            .collect()
    }

    /// Its environment in the cell, whose folder to write to is `out`.
    pub(crate) fn env(&self, out: &Path) -> Vec<(String, String)> {
        let tmp = out.join("tmp").display().to_string();
        let mut env = vec![
            ("PATH", "/usr/bin:/bin".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("HOME", tmp.clone()),
            ("TMPDIR", tmp),
            ("PIP_CONFIG_FILE", "/dev/null".to_owned()),
            ("PIP_NO_INPUT", "1".to_owned()),
            ("PIP_NO_CACHE_DIR", "1".to_owned()),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1".to_owned()),
            ("PIP_RETRIES", "1".to_owned()),
            ("PIP_DEFAULT_TIMEOUT", READ_TIMEOUT_S.to_string()),
            ("PIP_PROXY", "{proxy}".to_owned()),
            ("PIP_INDEX_URL", self.index.clone()),
        ];
        for (name, list) in [
            ("PIP_EXTRA_INDEX_URL", &self.extra),
            ("PIP_FIND_LINKS", &self.find_links),
            ("PIP_TRUSTED_HOST", &self.trusted),
        ] {
            if !list.is_empty() {
                env.push((name, list.join(" ")));
            }
        }
        if let Some(cert) = &self.cert {
            env.push(("PIP_CERT", cert.display().to_string()));
        }
        env.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Its command line.
    pub(crate) fn argv(&self, args: &[&str]) -> Vec<String> {
        let python = self.python.display().to_string();
        let start = [python.as_str(), "-I", "-B"];
        start
            .iter()
            .chain(args)
            .map(|arg| (*arg).to_owned())
            .collect()
    }
}

/// `host:port` of a URL; `None` for a path.
pub(crate) fn address(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    with_port(rest.split(['/', '?', '#']).next()?, port)
}

/// What it means that pip failed: `said` is its log, down to what it passed over.
pub(crate) fn failure(said: &str, seen: &Seen) -> ResolveError {
    if let Some(host) = &seen.foreign {
        return ResolveError::ForeignHost { host: host.clone() };
    }
    if let Some((host, reason)) = &seen.unreachable {
        return ResolveError::IndexDown {
            host: host.clone(),
            reason: reason.clone(),
        };
    }
    if said.contains("Read timed out") || said.contains("ReadTimeoutError") {
        return ResolveError::Slow {
            limit: std::time::Duration::from_secs(READ_TIMEOUT_S.into()),
        };
    }
    if let Some(status) = between(said, "too many ", " error responses") {
        let what = between(said, "Could not fetch URL ", ": ").unwrap_or("a file");
        return ResolveError::IndexBroken {
            status: shown(status),
            what: shown(what),
        };
    }
    if let Some((_, after)) = said.split_once("DO NOT MATCH THE HASHES") {
        let package = after
            .lines()
            .skip(1)
            .map(clean)
            .find(|line| !line.is_empty());
        return ResolveError::WrongHash {
            package: shown(
                package
                    .unwrap_or("a package")
                    .split(" from ")
                    .next()
                    .unwrap_or_default(),
            ),
        };
    }
    if let Some(requirement) = between(said, "satisfies the requirement ", " (from versions: ") {
        return no_version(said, requirement);
    }
    if said.contains("ResolutionImpossible") {
        let reason = said
            .split_once("The conflict is caused by:")
            .map_or("", |(_, after)| after);
        let lines = reason.lines().map(clean).skip_while(|line| line.is_empty());
        let lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
        return ResolveError::Conflict {
            reason: shown(&lines.join("; ")),
        };
    }
    if let Some((_, after)) = said.split_once("Invalid requirement") {
        return ResolveError::BadRequirements {
            file: "requirements.txt".to_owned(),
            reason: shown(
                after
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .trim_start_matches([':', ' ']),
            ),
        };
    }
    ResolveError::Tool {
        tool: "pip",
        reason: tail(said),
    }
}

/// Nothing fits; but perhaps something would, were it built.
fn no_version(said: &str, requirement: &str) -> ResolveError {
    let known = between(said, " (from versions: ", ")").unwrap_or("none");
    let requirement = shown(requirement);
    let pinned = requirement
        .split_once("==")
        .map(|(_, version)| version.trim());
    let is_source = |line: &str| {
        line.contains("No sources permitted for")
            && pinned.is_none_or(|version| line.contains(&format!("-{version}.")))
    };
    if (pinned.is_some() || known == "none") && said.lines().any(is_source) {
        return ResolveError::NeedsBuild { requirement };
    }
    ResolveError::NoVersion {
        requirement,
        known: match known {
            "none" => "there are none".to_owned(),
            known => format!("there are {}", shown(known)),
        },
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

/// A line of pip's log without its time.
fn clean(line: &str) -> &str {
    let line = match line.split_once(' ') {
        Some((time, rest)) if time.contains('T') && time.contains(':') => rest,
        Some(_) | None if line.contains('T') && line.ends_with(' ') => "",
        _ => line,
    };
    line.trim_start_matches("ERROR:").trim()
}

/// Fit for one line of an error: what pip says is partly what the index says.
fn shown(text: &str) -> String {
    text.trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN_LEN_MAX)
        .collect()
}

/// The last complaint, for an error that we do not know.
pub(crate) fn tail(said: &str) -> String {
    let lines: Vec<&str> = said
        .lines()
        .map(clean)
        .filter(|line| !line.is_empty())
        .collect();
    let errors: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.to_lowercase().contains("error"))
        .collect();
    let last = if errors.is_empty() { &lines } else { &errors };
    shown(&last[last.len().saturating_sub(3)..].join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pip(items: &[(&str, &str)]) -> Pip {
        let answer = Answer {
            python: "3.11".to_owned(),
            default: "https://index.example/simple".to_owned(),
            files: "files.example".to_owned(),
            items: items
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect(),
        };
        Pip::of(Path::new("/usr/bin/python3"), answer)
    }

    #[test]
    fn the_default_index_brings_the_host_of_its_files() {
        let hosts = pip(&[]).hosts(&["more.example:8443".to_owned()]);
        let expected = [
            "files.example:443",
            "index.example:443",
            "more.example:8443",
        ];
        assert_eq!(hosts, expected.map(str::to_owned).into());
    }

    #[test]
    fn the_hosts_configuration_counts_and_the_environment_most() {
        let pip = pip(&[
            ("global.index-url", "https://global.example/simple"),
            (":env:.index-url", "http://127.0.0.1:8080/simple"),
            (
                "global.extra-index-url",
                "https://a.example/s https://b.example/s",
            ),
            ("install.find-links", "/opt/none https://c.example/wheels/"),
        ]);
        let hosts = [
            "127.0.0.1:8080",
            "a.example:443",
            "b.example:443",
            "c.example:443",
        ];
        assert_eq!(pip.hosts(&[]), hosts.map(str::to_owned).into());
        assert!(pip.mounts().is_empty(), "a folder that is not there");
        let env = pip.env(Path::new("/out"));
        let index = env
            .iter()
            .find(|(name, _)| name == "PIP_INDEX_URL")
            .unwrap();
        assert_eq!(index.1, "http://127.0.0.1:8080/simple");
    }

    #[test]
    fn what_nobody_knows_is_shown_and_cut() {
        let said = format!("2026-01-01T00:00:00,000 ERROR: {}", "x".repeat(5_000));
        let error = failure(&said, &Seen::default());
        assert!(matches!(error, ResolveError::Tool { .. }), "{error:?}");
        assert!(error.to_string().len() < 1_000);
    }
}
